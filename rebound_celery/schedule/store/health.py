"""The health of endpoints: which fail, since when, and which are disabled. Their names are texts of the caller's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .envelope import from_id, to_id
from .keys import QueueKeys
from .script_runner import Call, run_script
from .values import Health, HealthReport

#: Without a failure for so long, a series of failures has ended.
_GAP_MS = 86_400_000
#: How many endpoints are kept that fail. Those beyond are not disabled by time.
_MOST_ROWS = 10_000


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
