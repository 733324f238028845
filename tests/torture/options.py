"""The command line options of a run."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The defaults for the load and the shape of a run.
RATE = 60.0
DRAIN_S = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One run.

    Attributes:
        minutes: the time with faults, without the start and the drain.
        seed: the same seed gives the same faults in the same order, on the same kinds of targets.
        kafka: "apache" or "embedded". The embedded broker keeps its records in memory, so it is stopped, not killed.
        rate: messages a second, Kafka and HTTP together.
        pace: the frequency of the faults, as a multiple of the default.
        drain_s: the longest time after the last fault until every message has ended, in seconds.
        ordering: "key" runs the consumers with that option; None runs them without an order.
        only: the names of the faults to make. Empty means all.
        keep_logs: a directory for all logs and journals; None keeps them only after a violation.
    """

    minutes: float = 2.0
    seed: int = 1
    kafka: str = "apache"
    rate: float = RATE
    pace: float = 1.0
    drain_s: float = DRAIN_S
    ordering: str | None = None
    only: tuple[str, ...] = ()
    keep_logs: Path | None = None


def parse(arguments: Sequence[str], faults: Sequence[str]) -> Options:
    """Read a command line. `faults` are the allowed names for `--only`."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture",
        description="Kill, stop and cut off everything at random, then check every message. Prints one JSON line; "
        "the status is 1 if the promise was broken.",
    )
    parser.add_argument("--minutes", type=float, default=2.0, help="of chaos; start and drain come on top")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kafka", choices=("apache", "embedded"), default="apache")
    parser.add_argument("--rate", type=float, default=RATE, help="messages a second")
    parser.add_argument("--pace", type=float, default=1.0, help="faults come this many times as often")
    parser.add_argument("--drain", type=float, default=DRAIN_S, dest="drain_s", metavar="SECONDS")
    parser.add_argument("--ordering", choices=("key",), help="run the consumers with this option")
    parser.add_argument("--only", nargs="*", default=(), choices=("none", *faults), metavar="FAULT", help=str(faults))
    parser.add_argument("--keep-logs", type=Path, metavar="DIR")
    found = parser.parse_args(arguments)
    return Options(**{**vars(found), "only": tuple(found.only)})
