"""Run Celery's and kombu's own integration suites on stock and on our transport, and print the differences.

`python -m tests.suites` takes about half an hour. It fetches the suites of the installed versions from the package
registry into a cache folder outside of the checkout. For each suite it prints a table of the tests that differ and one
line of JSON to stdout. pytest's output goes to files in the cache folder. Status 1 means that a test that passes on
stock fails on ours each time and is not in MEANT, or that Celery's suite did not use the schedule.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compare import Comparison, compare, table
from .sides import OURS, STOCK, Run, Side
from .sources import fetch_suite, make_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

SUITES = {"celery": "t/integration/test_*.py", "kombu": "t/integration/test_redis*.py"}

#: Tests that fail on our side because it is meant to differ.
MEANT = {"t/integration/test_worker.py::test_run_worker": "its app has an AMQP broker, which the schedule refuses"}


def main() -> int:
    options = _options()
    python = make_environment(options.cache)
    return max([_run_suite(suite, options, python) for suite in options.only or SUITES])


def _run_suite(suite: str, options: argparse.Namespace, python: Path) -> int:
    names = [name for name in (STOCK, OURS) if options.side in (None, name)]
    sides = [_make_side(suite, name, options, python) for name in names]
    files = sorted(str(file.relative_to(sides[0].folder)) for file in sides[0].folder.glob(SUITES[suite]))

    def run(tests: Sequence[str], expression: str | None = None) -> list[Run]:
        with ThreadPoolExecutor(len(sides) if options.together else 1) as pool:
            return list(pool.map(lambda side: _run_side(side, tests, expression), sides))

    first = run(files, options.k)
    summary: dict[str, Any] = {
        "suite": suite,
        **{name: found.count() for name, found in zip(names, first, strict=True)},
    }
    # kombu's suite has no countdowns.
    is_unused = suite == "celery" and OURS in names and first[-1].enqueues == 0
    if OURS in names:
        summary["enqueues"] = first[-1].enqueues
    if is_unused:
        print(f"{suite}: nothing was stored in the schedule, so these tests prove nothing of it", file=sys.stderr)
    if options.side is not None:
        print(json.dumps(summary))
        return int(not first[0].outcomes or is_unused)
    compared = compare(first[0], first[1], lambda tests: _pair(run(tests)))
    _print_differences(compared)
    summary |= {kind: [each.test for each in getattr(compared, kind)] for kind in ("worse", "better", "flaky")}
    print(json.dumps(summary), flush=True)
    worse = [each for each in compared.worse if each.test not in MEANT]
    return int(bool(worse) or not first[0].outcomes or is_unused)


def _pair(runs: list[Run]) -> tuple[Run, Run]:
    stock, ours = runs
    return stock, ours


def _make_side(suite: str, name: str, options: argparse.Namespace, python: Path) -> Side:
    folder = fetch_suite(suite, options.cache, name)
    log = options.cache / f"{suite}-{name}.log"
    log.unlink(missing_ok=True)
    return Side(suite, name, python, folder, log, options.timeout)


def _run_side(side: Side, tests: Sequence[str], expression: str | None) -> Run:
    began = time.monotonic()
    found = side.run(tests, expression)
    took = time.monotonic() - began
    print(f"{side.suite} on {side.name}: {found.count()} in {took:.0f} s; {side.log}", file=sys.stderr)
    return found


def _print_differences(compared: Comparison) -> None:
    for kind in ("worse", "better", "flaky"):
        rows = getattr(compared, kind)
        if rows:
            print(f"{kind}:\n{table(rows)}\n")
    for each in compared.worse:
        print(f"--- {each.test} on ours:\n{each.ours.reason}\n", file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.suites", description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", choices=SUITES, help="one of the suites")
    parser.add_argument("-k", metavar="EXPR", help="only these tests, as pytest's -k")
    parser.add_argument("--stock-only", dest="side", action="store_const", const=STOCK)
    parser.add_argument("--ours-only", dest="side", action="store_const", const=OURS)
    parser.add_argument("--together", action="store_true", help="both sides at once, each on a Redis of its own")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds that one test may take (180)")
    cache = Path(tempfile.gettempdir()) / "rebound-suites"
    parser.add_argument("--cache", type=Path, default=cache, help=f"where sources and logs are kept ({cache})")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
