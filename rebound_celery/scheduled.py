"""What `schedule_retries` returns: for each message its AsyncResult, made when asked for, or an error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias, overload

from celery.result import AsyncResult

from .errors import ReboundError

Outcome: TypeAlias = "AsyncResult | ReboundError"


def result_of(app: Any, task_id: str, *, ignored: bool) -> AsyncResult:
    """The result of a message's delivery. If it is ignored, `get()` returns None at once, as with Celery's own."""
    result = app.AsyncResult(task_id)
    result.ignored = ignored
    return result


class Scheduled(Sequence[Outcome]):
    """For each message that was to be scheduled its AsyncResult, or the error that kept it from being stored.

    It equals a list of the same outcomes. Making an AsyncResult costs a third of what storing a message does, and few
    callers look at them; so each is made when it is asked for.

    Args:
        app: the Celery app.
        outcomes: for each message the id of its task, a result that is known already, or the error.
        ignored: whether the results of the tasks are ignored.
    """

    def __init__(self, app: Any, outcomes: Sequence[str | Outcome], *, ignored: bool = False) -> None:
        self._app = app
        self._ignored = ignored
        self._outcomes = outcomes

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> list[Outcome]: ...
    def __getitem__(self, index: int | slice) -> Outcome | list[Outcome]:
        if isinstance(index, slice):
            return [self._made(outcome) for outcome in self._outcomes[index]]
        return self._made(self._outcomes[index])

    def __iter__(self) -> Iterator[Outcome]:
        return map(self._made, self._outcomes)

    def __len__(self) -> int:
        return len(self._outcomes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"

    def errors(self) -> list[ReboundError]:
        """The errors among the outcomes; a message without one is stored."""
        return [outcome for outcome in self._outcomes if isinstance(outcome, ReboundError)]

    def _made(self, outcome: str | Outcome) -> Outcome:
        return result_of(self._app, outcome, ignored=self._ignored) if isinstance(outcome, str) else outcome
