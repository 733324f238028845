"""The health of endpoints: which fail, since when, and which are disabled. Their names are texts of the caller's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .envelope import from_id, to_id
from .keys import QueueKeys
from .script_runner import Call, run_script

#: Without a failure for so long, a series of failures has ended.
_GAP_MS = 86_400_000
#: How many endpoints are kept that fail. Those beyond are not disabled by time.
_MOST_ROWS = 10_000


class HealthReport(NamedTuple):
    """What an endpoint answered.

    Attributes:
        name: the endpoint's.
        took: whether it took a message.
        failures: how many messages failed.
        alone_ms: for how long it wants to be left alone, in milliseconds; None where it does not.
        disable_after_ms: after how long a time of nothing but failures it is disabled; 0 for never.
        gone: why it is disabled at once; the empty text for not.
        tells: whether the caller tells operators that it is disabled, and says with `has_told` that it has. Whoever
            tells may end before that, so that another caller is asked to tell later.
        has_told: whether operators were told.
    """

    name: str
    took: bool = False
    failures: int = 0
    alone_ms: int | None = None
    disable_after_ms: int = 0
    gone: str = ""
    tells: bool = False
    has_told: bool = False


class Health(NamedTuple):
    """The health of an endpoint; all zeros where it is well. Times are Unix milliseconds.

    Attributes:
        since_ms: since when it has done nothing but fail.
        last_ms: its last failure.
        failures: how many there were.
        slow_until_ms: until when it is left alone.
        disabled_ms: when it was disabled; 0 for not.
        reason: why.
        tell_ms: when operators are to be told of it if nobody has by then; 0 if they need not be told.
        is_telling: whether whoever made this report is to tell them now.
    """

    since_ms: int = 0
    last_ms: int = 0
    failures: int = 0
    slow_until_ms: int = 0
    disabled_ms: int = 0
    reason: str = ""
    tell_ms: int = 0
    is_telling: bool = False


def report(client: Any, keys: QueueKeys, reports: Sequence[HealthReport]) -> list[Health]:
    """Count what endpoints answered; returns the health of each."""
    arguments: list[Any] = [_GAP_MS, _MOST_ROWS]
    for one in reports:
        alone_ms = -1 if one.alone_ms is None else one.alone_ms
        telling = 2 if one.has_told else int(one.tells)
        arguments += (to_id(one.name), int(one.took), one.failures, alone_ms, one.disable_after_ms, one.gone, telling)
    _, (answers,) = run_script(client, "health", [Call([keys.health], arguments)])
    return [_read(row, is_telling=bool(is_telling)) for row, is_telling in answers]


def read(client: Any, keys: QueueKeys, names: Sequence[str]) -> list[Health]:
    """The health of these endpoints."""
    return [_read(row or b"") for row in client.hmget(keys.health, [to_id(name) for name in names])] if names else []


def read_all(client: Any, keys: QueueKeys) -> Mapping[str, Health]:
    """The endpoints that fail or are disabled."""
    return {from_id(name): _read(row) for name, row in client.hscan_iter(keys.health, count=1_000)}


def clear(client: Any, keys: QueueKeys, name: str) -> bool:
    """Forget an endpoint's failures, and that it is disabled; returns whether there was anything."""
    return bool(client.hdel(keys.health, to_id(name)))


def _read(row: bytes, *, is_telling: bool = False) -> Health:
    if not row:
        return Health()
    *numbers, reason = row.split(b" ", 7)
    since, last, failures, _, slow_until, disabled_at, tell_at = map(int, numbers)
    return Health(
        since, last, failures, slow_until, disabled_at, reason.decode("utf-8", "replace"), tell_at, is_telling
    )
