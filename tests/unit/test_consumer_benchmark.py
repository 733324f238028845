"""The consumer benchmark: its durations, its output, and its handling of signals."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator

import pytest

from benchmarks.consumer_benchmark_parts import processes
from benchmarks.consumer_benchmark_parts.interrupts import Interrupted, Interrupts
from benchmarks.consumer_benchmark_parts.load import LoadError, in_own_process, poll_only
from benchmarks.consumer_benchmark_parts.options import format_duration, make_parser, parse_duration
from benchmarks.consumer_benchmark_parts.processes import Joined
from benchmarks.consumer_benchmark_parts.report import Report
from benchmarks.consumer_benchmark_parts.run import Benchmark
from rebound_celery.consumer import ConsumerStats

STATS = ConsumerStats(succeeded=411, retried=176)

#: What the Go program prints with these counts, in its default settings.
GO_PROGRAM = """\
=== Rebound Consumer Benchmark ===

✓ Consumer started
  Topic: consumer-benchmark
  Group ID: benchmark-consumer-group
  Failure Rate: 30.0%
  Duration: 1m0s


⏱️  Duration elapsed, shutting down...

=== Final Statistics ===
{
  "TotalMessages": 587,
  "SuccessfulMessages": 411,
  "RetriedMessages": 176,
  "ErrorMessages": 0
}

Success Rate: 70.02%
Retry Rate: 29.98%

✓ Consumer benchmark completed
"""


def report(*flags: str) -> Report:
    return Report(make_parser(None).parse_args(flags))


def test_it_prints_what_the_go_program_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """Line for line, from the heading to the last check mark."""
    options = make_parser(None).parse_args([])
    printed = Report(options)

    printed.heading()
    printed.started(options.topic, options.group)
    printed.elapsed()
    printed.statistics(STATS, 0, {})
    printed.completed()

    assert capsys.readouterr().out == GO_PROGRAM


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupt"), (signal.SIGTERM, "terminated")])
def test_a_signal_has_its_name_in_go(number: signal.Signals, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    interrupts = Interrupts()
    interrupts._on_signal(number, None)
    interrupts._on_signal(signal.SIGTERM, None)

    report().interrupted(interrupts.name)

    assert capsys.readouterr().out == f"\n📡 Received signal {word}, shutting down...\n"


def test_dead_messages_are_counted_behind_a_switch(capsys: pytest.CaptureFixture[str]) -> None:
    stats = ConsumerStats(succeeded=6, retried=3, dead=1)

    report().statistics(stats, 0, {})
    without = capsys.readouterr().out
    report("-dead-messages").statistics(stats, 0, {})
    behind = capsys.readouterr().out

    assert "Dead" not in without
    assert '"ErrorMessages": 0,\n  "DeadMessages": 1\n}' in behind


def test_json_prints_the_object_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    printed = report("-json")

    printed.heading()
    printed.started("t", "g")
    printed.elapsed()
    printed.statistics(STATS, 2, {"duration_s": 1.5})
    printed.completed()

    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith('"SuccessRate": 70.02, "RetryRate": 29.98, "WaitingRetries": 2, "duration_s": 1.5}')


@pytest.mark.parametrize(
    ("given", "seconds", "go"),
    [
        ("60s", 60, "1m0s"),
        ("2m", 120, "2m0s"),
        ("1m30s", 90, "1m30s"),
        ("500ms", 0.5, "500ms"),
        ("1.5s", 1.5, "1.5s"),
        ("1.5h", 5400, "1h30m0s"),
        ("1h0.25s", 3600.25, "1h0m0.25s"),
        ("7", 7, "7s"),
        ("168h", 604_800, "168h0m0s"),
    ],
)
def test_durations_are_read_and_printed_as_in_go(given: str, seconds: float, go: str) -> None:
    assert parse_duration(given) == pytest.approx(seconds)
    assert format_duration(seconds) == go


@pytest.mark.parametrize("text", ["", "0s", "0.1ms", "-1s", "1x", "s", "1m30", "169h", "1e3s", "inf"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)


@pytest.mark.parametrize("given", ["server", "server:6379", "redis://server", "redis://server:6379/0"])
def test_redis_may_be_given_in_several_forms(given: str) -> None:
    assert make_parser(None).parse_args(["-redis", given]).redis == "server:6379"


def hear(joined: Joined, partitions: str) -> None:
    joined.handle(logging.makeLogRecord({"event": "assigned", "partitions": partitions}))


def test_the_group_is_joined_when_partitions_are_assigned() -> None:
    """Kafka may first assign none, and the partitions at once after it."""
    joined = Joined()
    joined.handle(logging.makeLogRecord({"event": "revoked"}))
    hear(joined, "none")
    assert not joined.joined

    hear(joined, "t[0], t[1]")

    assert joined.joined


def test_a_member_without_partitions_has_joined_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "WITHOUT_PARTITIONS_S", 0.0)
    joined = Joined()

    hear(joined, "none")

    assert joined.joined


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    installed = Interrupts()
    installed.install()
    yield installed
    for number, handler in earlier.items():
        signal.signal(number, handler)


def test_a_signal_interrupts_only_what_can_be_left(interrupts: Interrupts) -> None:
    """Elsewhere it is counted; a later block that can be left is then left at once."""
    os.kill(os.getpid(), signal.SIGTERM)
    assert interrupts.count == 1

    with pytest.raises(Interrupted), interrupts.raising():
        raise AssertionError("this is not reached")


def test_a_second_signal_does_not_interrupt_the_clean_up(interrupts: Interrupts) -> None:
    cleaned_up = False

    def work() -> None:
        nonlocal cleaned_up
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            cleaned_up = True

    with pytest.raises(Interrupted), interrupts.raising():
        work()

    assert cleaned_up
    assert interrupts.count == 2


def test_what_fails_in_another_process_is_told_in_one_line() -> None:
    with pytest.raises(LoadError, match=r"^poll_only failed: TypeError: poll_only\(\) missing 2 .*$"):
        in_own_process(poll_only, "localhost:9092")


class SlowToStop:
    """A consumer that takes five seconds to stop."""

    error = None

    def __init__(self) -> None:
        self._end = time.monotonic() + 5

    @property
    def is_running(self) -> bool:
        return time.monotonic() < self._end

    def stop(self) -> None:
        pass


def test_second_signal_is_not_lost_if_it_comes_before_the_first_one_is_answered() -> None:
    """Both may come between two looks at the number of signals."""
    interrupts, options = Interrupts(), make_parser("").parse_args([])
    benchmark = Benchmark(options, interrupts, Report(options))
    consumer = SlowToStop()
    benchmark._consumer = consumer  # type: ignore[assignment]
    interrupts._on_signal(signal.SIGTERM, None)
    interrupts._on_signal(signal.SIGTERM, None)

    benchmark._say_why()
    benchmark._stop_consumer()

    assert consumer.is_running
