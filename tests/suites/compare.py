"""What differs between two runs of a suite, and whether it does so each time."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from .sides import Outcome, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: How often a test that differs is run again on both sides.
ROUNDS = 3

_NOT_RUN = Outcome("not run")


@dataclasses.dataclass(frozen=True)
class Difference:
    """One test that did not end alike on both sides."""

    test: str
    stock: Outcome
    ours: Outcome

    @property
    def is_worse(self) -> bool:
        return self.stock.outcome == "passed"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Tests that ended otherwise on ours each time (`worse`, `better`), and those that did so only once (`flaky`)."""

    worse: list[Difference]
    better: list[Difference]
    flaky: list[Difference]


def compare(stock: Run, ours: Run, run_again: Callable[[Sequence[str]], tuple[Run, Run]]) -> Comparison:
    """Compare two runs; `run_again` runs the given tests once more, on stock and on ours."""
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
    """The tests that did not end alike, in order of their names."""
    tests = sorted({*stock.outcomes, *ours.outcomes})
    pairs = [(test, stock.outcomes.get(test, _NOT_RUN), ours.outcomes.get(test, _NOT_RUN)) for test in tests]
    return [Difference(*pair) for pair in pairs if pair[1].outcome != pair[2].outcome]


def table(rows: Sequence[Difference]) -> str:
    """Lines of test, stock, ours."""
    width = max((len(row.test) for row in rows), default=4)
    cells = [("test", "stock", "ours"), *((row.test, row.stock.outcome, row.ours.outcome) for row in rows)]
    return "\n".join(f"{test:{width}}  {stock:7}  {ours}" for test, stock, ours in cells)
