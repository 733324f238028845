"""Removes dead letters for good."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..errors import InvalidSettingError
from ..schedule.port import Schedule
from ..selection import ActionResult, Filter, Progress
from .again import PARKED_SUFFIX
from .editing import entries_of
from .walking import IN_REDIS, Access, Walk

PURGE = "purge"

_CHUNK = 500

Tell = Callable[[Progress], object]


def purge_redis(
    access: Access,
    *,
    ids: Sequence[str] = (),
    chosen: Filter | None = None,
    dry_run: bool = False,
    limit: int | None = None,
    progress: Tell | None = None,
) -> ActionResult:
    """Remove letters from Redis: those with these ids, or all that fit the filter, at most `limit`."""
    if chosen is None:
        return _purge_ids(access, ids, dry_run=dry_run)
    matched = changed = 0
    found: list[str] = []
    walk = Walk(access, IN_REDIS, None, chosen)

    def remove() -> None:
        nonlocal changed
        if found and not dry_run:
            with access.schedule() as schedule, access.asking():
                changed += schedule.remove_dead(*found)
        found.clear()
        if progress is not None:
            progress(Progress(walk.read, walk.total, matched, changed))

    for letter in walk:
        if chosen.matches(letter.view, access.clock.now_ms()):
            matched += 1
            found.append(letter.view.id)
        if len(found) >= _CHUNK or (progress is not None and walk.read % _CHUNK == 0):
            remove()
        if limit is not None and matched >= limit:
            break
    remove()
    return ActionResult(action=PURGE, dry_run=dry_run, matched=matched, changed=changed)


def _purge_ids(access: Access, ids: Sequence[str], *, dry_run: bool) -> ActionResult:
    matched: list[str] = []
    unknown: list[str] = []
    with access.schedule() as schedule, access.asking():
        for identity in dict.fromkeys(ids):
            name = _kept_as(schedule, identity)
            (unknown if name is None else matched).append(identity if name is None else name)
        changed = 0 if dry_run else schedule.remove_dead(*dict.fromkeys(matched)) if matched else 0
    return ActionResult(
        action=PURGE, dry_run=dry_run, matched=len(set(matched)), changed=changed, unknown=tuple(unknown)
    )


def _kept_as(schedule: Schedule, identity: str) -> str | None:
    return next((name for name in entries_of(identity) if schedule.dead_letter(name) is not None), None)


def purge_topic(access: Access, topic: str, before: Mapping[int, int] | None, *, dry_run: bool = False) -> ActionResult:
    """Delete the records of a topic: of these partitions those before an offset, or all that are there now."""
    suffix = access.settings.dead_letter_suffix
    if not topic.endswith((suffix, PARKED_SUFFIX)):
        rule = f"only topics whose names end with {suffix} or {PARKED_SUFFIX} are purged; use Kafka's tools for others"
        raise InvalidSettingError("source", topic, rule)
    with access.topics() as topics:
        bounds = topics.bounds(topic)
    if before is None:
        before = {partition: end for partition, (_, end) in bounds.items()}
    wanted = {
        partition: min(offset, bounds[partition][1])
        for partition, offset in before.items()
        if partition in bounds and bounds[partition][0] < offset
    }
    count = sum(max(0, offset - bounds[partition][0]) for partition, offset in wanted.items())
    if wanted and not dry_run:
        from .topic_reader import delete_records

        delete_records(access.settings, topic, wanted)
    return ActionResult(action=PURGE, dry_run=dry_run, matched=count, changed=0 if dry_run else count)
