"""The program: reads the command line, sets up the log, runs, and prints an error in one line."""

from __future__ import annotations

import io
import logging
import os
import sys

from kafka.errors import KafkaError

from rebound_celery import ReboundError

from .interrupts import Interrupts
from .options import make_parser
from .report import Report
from .run import Benchmark


def main(description: str | None, interrupts: Interrupts) -> int:
    """Run, and return the exit status: 0, 1 after an error, 2 if the command line cannot be used."""
    # The caller's settings must not change this program and its worker.
    for variable in [name for name in os.environ if name.startswith(("REBOUND_", "CELERY_"))]:
        del os.environ[variable]
    parser = make_parser(description)
    options = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a check mark gets a question mark.
        sys.stdout.reconfigure(errors="replace")
    _set_up_log(quiet=options.json)
    benchmark = Benchmark(options, interrupts, Report(options))
    try:
        benchmark.run()
    except (ReboundError, KafkaError, OSError) as error:
        benchmark.complaints.append(" ".join(str(error).split()) or type(error).__name__)
    for complaint in benchmark.complaints:
        print(f"{parser.prog}: {complaint}", file=sys.stderr)
    return 1 if benchmark.complaints else 0


def _set_up_log(*, quiet: bool) -> None:
    to_stderr = logging.StreamHandler()
    to_stderr.setLevel(logging.WARNING if quiet else logging.INFO)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", handlers=[to_stderr], force=True
    )
    # INFO, even if it is not shown: the run learns from this log that the group is joined.
    logging.getLogger("rebound_celery.consumer").setLevel(logging.INFO)
    logging.getLogger(__package__).setLevel(logging.INFO)
    # The handler fails on purpose, and an outage is one line of the program itself.
    logging.getLogger("rebound_celery.consumer.failure_handler").setLevel(logging.ERROR)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
