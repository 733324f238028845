"""Makes the message that sends a dead letter again, or that parks it."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from ..config import Settings
from ..errors import InvalidSettingError
from ..message import Message, dead_letter_topic
from ..message.address import DEAD_SET, Address, DeadSetAddress, KafkaAddress, policy_names
from ..message.headers import replayed_headers
from ..policy import MAX_RETRIES_LIMIT, RetryPolicy
from .letter import Letter

#: How often a letter is replayed before it is parked.
MAX_REPLAYS = 3

#: The end of the name of a topic for letters that were replayed too often.
PARKED_SUFFIX = "-parked"

#: The reason of a parked letter whose headers tell none.
_NO_REASON = "unknown"


class Prepared(NamedTuple):
    """What a letter becomes.

    Attributes:
        message: the message.
        is_parked: whether it is still a dead letter, for the topic of those that were replayed too often.
    """

    message: Message
    is_parked: bool


class NotReplayableError(InvalidSettingError):
    """This dead letter cannot be replayed as asked. The text says why, and what to do."""


def prepare(letter: Letter, settings: Settings, target: Address | None, max_replays: int) -> Prepared:
    """Return the message for a letter.

    Args:
        letter: the dead letter.
        settings: the app's settings.
        target: where it goes; None means where it was for.
        max_replays: a letter that was replayed so often is parked.

    Raises:
        NotReplayableError: if it cannot be replayed.
    """
    view = letter.view
    if view.problem is not None:
        raise NotReplayableError("letter", view.id, f"it cannot be read: {view.problem}")
    if not letter.copied:
        where = "" if view.origin is None else f" of {view.origin}"
        raise NotReplayableError("letter", view.id, f"Kafka has copied neither its key nor its value{where}")
    destination = target or _destination(letter)
    if destination is None:
        raise NotReplayableError("letter", view.id, "its headers do not tell where it came from: give a target")
    if view.replays >= max_replays:
        return Prepared(_parked(letter, destination), is_parked=True)
    return Prepared(_again(letter, destination, settings, is_redirected=target is not None), is_parked=False)


def _destination(letter: Letter) -> Address | None:
    """Where a letter was for; None if that is not known."""
    address = letter.view.destination
    return None if isinstance(address, DeadSetAddress) else address


def _again(letter: Letter, destination: Address, settings: Settings, *, is_redirected: bool) -> Message:
    view, kept = letter.view, letter.message
    headers = replayed_headers(view.headers, view.replays + 1)
    if kept is not None and not is_redirected:
        # Its place in Kafka is left out: the record that it becomes has a place of its own.
        return replace(kept, attempt=1, headers=headers, reason=None, failure=None, origin=None, first_failed_at=None)
    is_same = isinstance(destination, KafkaAddress) and destination.topic == letter.topic
    return Message(
        id=_message_id(letter),
        value=letter.value,
        destination=destination,
        attempt=1,
        policy=settings.policies.match(*policy_names(destination))[1],
        key=view.key,
        headers=headers,
        dead_destination=_dead_destination(destination, settings),
        history=view.history,
        # Another program's group is none of rebound's, and another topic has other groups.
        group=view.group if is_same and view.written_by == "rebound" else None,
        content_type=None if kept is None else kept.content_type,
        source=view.source,
        client_id=view.client_id,
    )


def _parked(letter: Letter, destination: Address) -> Message:
    view = letter.view
    times = f"it was replayed {view.replays} times"
    if letter.topic is None:
        text = f"{times}, and there is no topic to park it in: raise max_replays, or mend its cause"
        raise NotReplayableError("letter", view.id, text)
    brokers = destination.brokers if isinstance(destination, KafkaAddress) else None
    parked = dead_letter_topic(letter.topic, PARKED_SUFFIX, brokers)
    if view.kept_in == parked.topic and view.partition is not None:
        raise NotReplayableError("letter", view.id, f"{times}, and is parked: raise max_replays")
    headers = replayed_headers(view.headers, view.replays)
    if letter.message is not None:
        return replace(letter.message, headers=headers, dead_destination=parked)
    return Message(
        id=_message_id(letter),
        value=letter.value,
        destination=destination,
        attempt=min(max(view.attempts or 1, 1), 1 + MAX_RETRIES_LIMIT),
        policy=RetryPolicy(),
        key=view.key,
        headers=headers,
        dead_destination=parked,
        reason=view.reason or _NO_REASON,
        failure=view.failure,
        history=view.history,
        group=view.group,
        origin=view.origin,
        first_failed_at=view.first_failed_at_ms,
        source=view.source,
        client_id=view.client_id,
    )


def _dead_destination(destination: Address, settings: Settings) -> Address:
    if isinstance(destination, KafkaAddress):
        return dead_letter_topic(destination.topic, settings.dead_letter_suffix, destination.brokers)
    return DEAD_SET


def _message_id(letter: Letter) -> str:
    return letter.view.message_id or letter.view.id
