"""Prints the benchmark's lines on stdout, the same as Rebound's Go program. Everything else goes to the log."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rebound_celery.consumer import ConsumerStats

from .options import format_duration

_COUNTS = ("TotalMessages", "SuccessfulMessages", "RetriedMessages", "ErrorMessages")


class Report:
    """Prints the lines. With `--json` it prints only the object at the end."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options

    def heading(self) -> None:
        self._say("=== Rebound Consumer Benchmark ===\n")

    def started(self, topic: str, group: str) -> None:
        self._say("✓ Consumer started")
        self._say(f"  Topic: {topic}")
        self._say(f"  Group ID: {group}")
        self._say(f"  Failure Rate: {100 * self._options.failure_rate:.1f}%")
        self._say(f"  Duration: {format_duration(self._options.duration)}\n")

    def elapsed(self) -> None:
        self._say("\n⏱️  Duration elapsed, shutting down...")

    def interrupted(self, name: str) -> None:
        self._say(f"\n📡 Received signal {name}, shutting down...")

    def statistics(self, stats: ConsumerStats, waiting: int, measured: dict[str, Any]) -> None:
        """Print the end: the counts, and the rates of all handler calls with a known outcome."""
        counts = stats.to_dict()
        if self._options.json:
            print(json.dumps({**counts, "WaitingRetries": waiting, **measured}), flush=True)
            return
        names = (*_COUNTS, "DeadMessages") if self._options.dead_messages else _COUNTS
        self._say("\n=== Final Statistics ===")
        self._say(json.dumps({name: counts[name] for name in names}, indent=2))
        self._say(f"\nSuccess Rate: {stats.success_rate:.2f}%")
        self._say(f"Retry Rate: {stats.retry_rate:.2f}%")
        if "records_per_s" in measured:
            self._say(
                "\nFirst pass: {records} records in {first_pass_s} s, {records_per_s} records/s; {first_pass_retried} "
                "failed and were stored; {cpu_us_per_record} us of processor time each; peak memory of the consumer "
                "process {peak_rss_mb} MB. kafka-python alone reads {bare_poll_per_s} records/s here.".format(
                    **measured
                )
            )
        if "redelivered" in measured:
            self._say("Then {redelivered} retries came back in {redelivery_s} s.".format(**measured))

    def completed(self) -> None:
        self._say("\n✓ Consumer benchmark completed")

    def _say(self, text: str) -> None:
        if not self._options.json:
            print(text, flush=True)
