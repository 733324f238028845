"""Decides the outcome of each message by pure functions of its id. Handler, receiver and checks all use them."""

from __future__ import annotations

import hashlib
import os
from enum import StrEnum

TOPIC = "torture"
DEAD_TOPIC = "torture-dlq"
GROUP = "torture-group"
QUEUE = "torture-retries"
PARTITIONS = 6
KEYS = 40
#: The number of keys in a run with `--ordering key`, where a key handles nothing else while one record is tried again.
KEYS_IN_ORDER = 150
#: Tells the producers the number of keys.
KEYS_VARIABLE = "TORTURE_KEYS"

MAX_RETRIES = 3
BASE_DELAY_S = 1.0
LEASE_S = 4.0
SESSION_S = 6.0
HTTP_TIMEOUT_S = 2.0

#: How long a hanging handler sleeps, in seconds. Meanwhile the commits of its partition are delayed.
HANG_S = 3.0

#: The share of messages that go over HTTP.
HTTP_SHARE = 0.15


class Fate(StrEnum):
    """The handler's outcome for a message."""

    SUCCEED = "succeed"
    FAIL = "fail"
    ALWAYS = "always"
    #: The process ends in the first call. Later calls succeed.
    CRASH = "crash"
    HANG = "hang"


class Answer(StrEnum):
    """The HTTP receiver's answer to a post."""

    OK = "ok"
    ERROR = "error"
    HANG = "hang"
    CUT_ERROR = "cut-error"
    #: 200, and the connection ends within the body. The status alone means that the post was taken.
    CUT_OK = "cut-ok"
    LATE = "late"


def chance(question: str, message_id: str) -> float:
    """Return a number from 0 to below 1 that looks random, but is always the same for this question and message."""
    digest = hashlib.blake2b(f"{question}:{message_id}".encode(), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48


def is_http(message_id: str) -> bool:
    return chance("http", message_id) < HTTP_SHARE


def key_of(message_id: str) -> bytes | None:
    """Return the record's key; None for one message in ten."""
    number = chance("key", message_id)
    keys = int(os.environ.get(KEYS_VARIABLE, KEYS))
    return None if number < 0.1 else f"key-{int(number * keys)}".encode()


def fate(message_id: str) -> Fate:
    number = chance("fate", message_id)
    for bound, found in ((0.0006, Fate.CRASH), (0.004, Fate.HANG), (0.05, Fate.ALWAYS), (0.35, Fate.FAIL)):
        if number < bound:
            return found
    return Fate.SUCCEED


def failures(message_id: str) -> int:
    """Return how many attempts fail before one succeeds."""
    found = fate(message_id)
    if found == Fate.ALWAYS:
        return 1 + MAX_RETRIES
    return 1 + int(chance("times", message_id) * MAX_RETRIES) if found == Fate.FAIL else 0


def answer(message_id: str, attempt: int) -> Answer:
    """Return the receiver's answer to this attempt. One message in ten is never taken."""
    if chance("never", message_id) < 0.1:
        return Answer.ERROR
    number = chance(f"answer-{attempt}", message_id)
    for bound, found in (
        (0.12, Answer.ERROR),
        (0.17, Answer.CUT_ERROR),
        (0.19, Answer.HANG),
        (0.21, Answer.LATE),
        (0.26, Answer.CUT_OK),
    ):
        if number < bound:
            return found
    return Answer.OK


def delay_ns(attempt: int) -> int:
    """Return the nanoseconds between the failure of an attempt and the next attempt."""
    return int(BASE_DELAY_S * 10**9) << (attempt - 1)
