"""Compares two runs of a suite, and repeats the tests that differ."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from .sides import Outcome, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: How many times a test that differs is run again on both sides.
ROUNDS = 3

_NOT_RUN = Outcome("not run")


@dataclasses.dataclass(frozen=True)
class Difference:
    """One test with different outcomes on the two sides."""

    test: str
    stock: Outcome
    ours: Outcome

    @property
    def is_worse(self) -> bool:
        return self.stock.outcome == "passed"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The tests that differed each time (`worse`, `better`), and the tests that differed only once (`flaky`)."""

    worse: list[Difference]
    better: list[Difference]
    flaky: list[Difference]


def compare(stock: Run, ours: Run, run_again: Callable[[Sequence[str]], tuple[Run, Run]]) -> Comparison:
    """Compare two runs. `run_again` runs the given tests once more, on stock and on ours."""
    first = differences(stock, ours)
    left = {each.test for each in first}
    for _ in range(ROUNDS):
        if not left:
            break
        again = differences(*run_again(sorted(left)))
        were_worse = {each.test: each.is_worse for each in first}
        left &= {each.test for each in again if each.is_worse == were_worse[each.test]}
    lasting = [each for each in first if each.test in left]
    return Comparison(
        worse=[each for each in lasting if each.is_worse],
        better=[each for each in lasting if not each.is_worse],
        flaky=[each for each in first if each.test not in left],
    )


def differences(stock: Run, ours: Run) -> list[Difference]:
    """Return the tests with different outcomes, in the order of their names."""
    tests = sorted({*stock.outcomes, *ours.outcomes})
    pairs = [(test, stock.outcomes.get(test, _NOT_RUN), ours.outcomes.get(test, _NOT_RUN)) for test in tests]
    return [Difference(*pair) for pair in pairs if pair[1].outcome != pair[2].outcome]


def table(rows: Sequence[Difference]) -> str:
    """Return a table with a line for each test: its name, its outcome on stock, and its outcome on ours."""
    width = max((len(row.test) for row in rows), default=4)
    cells = [("test", "stock", "ours"), *((row.test, row.stock.outcome, row.ours.outcome) for row in rows)]
    return "\n".join(f"{test:{width}}  {stock:7}  {ours}" for test, stock, ours in cells)
