"""What the schedule itself writes before the stored form of a message, and how it writes ids and dead letters.

The envelope of a message is: how many workers were lost with it (1 byte), the length of its lane reference (2 bytes),
and the reference. So the lane of a message is found by its id, and each script can put it back where it belongs.
"""

from __future__ import annotations

from functools import lru_cache

from .values import Claimed, DeadEntry

_LONGEST_REFERENCE = 2**16 - 1


@lru_cache(maxsize=4096)
def head(reference: str) -> bytes:
    """The envelope of a message that no worker was lost with.

    Raises:
        ValueError: if the lane's name is too long.
    """
    name = to_id(reference)
    if len(name) > _LONGEST_REFERENCE:
        raise ValueError(f"a lane's name of {len(name):,} bytes is too long: at most {_LONGEST_REFERENCE - 1:,}")
    return b"\0" + len(name).to_bytes(2, "big") + name


def opened(message: bytes) -> tuple[bytes, str, int]:
    """The stored form of a message, its lane reference, and its losses; of a damaged one whatever there is."""
    end = 3 + int.from_bytes(message[1:3], "big")
    return message[end:], _reference(message[3:end]), message[0] if message else 0


@lru_cache(maxsize=4096)
def _reference(name: bytes) -> str:
    return from_id(name) or "0"


def claimed(identity: bytes, message: bytes) -> Claimed:
    """A message as a claim gives it."""
    stored, reference, losses = opened(message)
    return Claimed(from_id(identity), stored, reference[1:], int(reference[0]), losses)


def seal_letter(letter: DeadEntry) -> bytes:
    """A dead letter as it is stored."""
    return to_id(letter.reason.replace("\n", " ")) + b"\n" + letter.stored


def open_letter(identity: str, letter: bytes, died_ms: int | None) -> DeadEntry:
    """A dead letter as it was stored."""
    reason, _, stored = letter.partition(b"\n")
    return DeadEntry(identity, reason.decode("utf-8", "replace"), stored, died_ms)


def to_id(text: str) -> bytes:
    """The bytes of an id or a lane. Those that are no UTF-8 were read by `from_id`; or they are half a surrogate pair,
    as JSON can have it."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        try:
            return text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            return text.encode("utf-8", "surrogatepass")


def from_id(identity: bytes) -> str:
    """The text of an id or a lane."""
    return identity.decode("utf-8", "surrogateescape")
