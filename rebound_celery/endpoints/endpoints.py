"""What operators do with HTTP endpoints: `Rebound.endpoints`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from ..clock import Clock
from ..errors import InvalidSettingError, ReboundError
from ..message import Message, codec, message_id_of
from ..message.address import HttpAddress, endpoint_lane, parse_address
from ..message.encryption import NO_KEYS, KeyRing
from ..schedule.port import DeadEntry, Health, HealthReport, Schedule

#: How many dead letters are read and stored at a time.
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An HTTP endpoint that fails or is disabled.

    Attributes:
        url: without user and query.
        failing_since: since when it has done nothing but fail; None if it was disabled by hand.
        failures: how many there were.
        slow_until: until when it is left alone, because it asked for that; None for not.
        disabled_at: since when it is sent nothing; None for not.
        reason: why it is disabled.
    """

    url: str
    failing_since: datetime | None
    failures: int
    slow_until: datetime | None
    disabled_at: datetime | None
    reason: str


class Endpoints:
    """The HTTP endpoints that fail or are disabled. Iterate over it to get them.

    An endpoint is a URL without user and query. What comes for a disabled one waits, until it is enabled.

    Args:
        open_schedule: opens the schedule of rebound's queue.
        store: stores messages, each with its due time.
        clock: tells the time.
        keys: returns the keys that encrypt stored forms.
    """

    def __init__(
        self,
        open_schedule: Callable[[], AbstractContextManager[Schedule]],
        store: Callable[[Sequence[tuple[Message, int]]], None],
        clock: Clock,
        keys: Callable[[], KeyRing] = lambda: NO_KEYS,
    ) -> None:
        self._open = open_schedule
        self._store = store
        self._clock = clock
        self._keys = keys

    def __iter__(self) -> Iterator[Endpoint]:
        """The endpoints that fail or are disabled, by URL."""
        with self._open() as schedule:
            found = schedule.unhealthy()
        return iter([_endpoint(url, found[url]) for url in sorted(found)])

    def get(self, url: str) -> Endpoint:
        """The endpoint of a URL, also where it is well.

        Raises:
            InvalidSettingError: if it is no HTTP URL.
        """
        name = _name_of(url)
        with self._open() as schedule:
            (health,) = schedule.health([name])
        return _endpoint(name, health)

    def disable(self, url: str, reason: str = "by hand") -> Endpoint:
        """Send nothing to the endpoint of a URL until it is enabled. What comes for it waits.

        Raises:
            InvalidSettingError: if it is no HTTP URL.
        """
        name = _name_of(url)
        with self._open() as schedule:
            (health,) = schedule.report_health([HealthReport(name, gone=" ".join(reason.split()) or "by hand")])
        return _endpoint(name, health)

    def enable(self, url: str) -> bool:
        """Send to an endpoint again, what has waited first; returns whether it was disabled or had failed.

        Raises:
            InvalidSettingError: if it is no HTTP URL.
        """
        name = _name_of(url)
        with self._open() as schedule:
            was_known = schedule.clear_health(name)
            # Also where it was not known: a pause may be left from a worker that looked at it just before.
            schedule.resume(endpoint_lane(name))
        return was_known

    def recover(self, url: str, since: datetime) -> int:
        """Enable an endpoint, and deliver again what it has missed since then; returns how many messages these are.

        These are its dead letters in Redis. Each begins anew with its first attempt, under the same id, so that the
        receiver knows what it has already. If this is interrupted, call it again.

        Args:
            url: of the endpoint.
            since: a time with its zone.

        Raises:
            InvalidSettingError: if it is no HTTP URL, or the time has no zone.
            NotStoredError: if Redis does not take a message; what was stored before stays.
        """
        if not isinstance(since, datetime) or since.tzinfo is None:
            raise InvalidSettingError("since", since, "it is a datetime with a time zone")
        name, since_ms = _name_of(url), round(since.timestamp() * 1000)
        self.enable(url)
        count = 0
        with self._open() as schedule:
            after, keys = None, self._keys()
            while True:
                page = schedule.dead(after, _PAGE)
                missed = ((letter.id, _missed(letter, name, since_ms, keys)) for letter in page.letters)
                found = [(id_, message) for id_, message in missed if message is not None]
                if found:
                    now_ms = self._clock.now_ms()
                    self._store([(_anew(message), now_ms) for _, message in found])
                    schedule.remove_dead(*(id_ for id_, _ in found))
                    count += len(found)
                after = page.next
                if after is None:
                    return count


def _name_of(url: Any) -> str:
    if isinstance(url, str) and not url.lower().startswith(("http://", "https://")):
        raise InvalidSettingError("url", url, "an endpoint is http://host/path or https://host/path")
    address = parse_address(url, kind="http", field="url")
    assert isinstance(address, HttpAddress)
    return address.parts.endpoint


def _endpoint(url: str, health: Health) -> Endpoint:
    return Endpoint(
        url,
        _time(health.since_ms) if health.failures else None,
        health.failures,
        _time(health.slow_until_ms),
        _time(health.disabled_ms),
        health.reason,
    )


def _time(ms: int) -> datetime | None:
    return datetime.fromtimestamp(ms / 1000, UTC) if ms else None


def _missed(letter: DeadEntry, endpoint: str, since_ms: int, keys: KeyRing) -> Message | None:
    """The message of a dead letter, if it was for this endpoint, and was given up since then."""
    if letter.died_ms is not None and letter.died_ms < since_ms:
        return None
    try:
        message, _ = codec.decode(message_id_of(letter.id), keys.open(letter.stored))
    except ReboundError:
        # It is damaged, a later version wrote it, or it is encrypted with another key: it stays.
        return None
    address = message.destination
    return message if isinstance(address, HttpAddress) and address.parts.endpoint == endpoint else None


def _anew(message: Message) -> Message:
    """The message as it was before its first attempt. Its history stays."""
    return replace(message, attempt=1, reason=None, failure=None)
