"""Decides how often each message fails. It depends on the id alone, so that all processes and checks agree."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """How the demo's handler behaves.

    Attributes:
        failure_rate: share of the messages that fail 1 to `max_retries` times, among those that do not always fail.
        always_fail_rate: share of the messages that fail every time.
        max_retries: that of the retry policy.
    """

    failure_rate: float
    always_fail_rate: float
    max_retries: int

    def always_fails(self, message_id: str) -> bool:
        return _chance("always", message_id) < self.always_fail_rate

    def failures(self, message_id: str) -> int:
        """How many attempts fail before one succeeds, for a message that does not always fail."""
        if self.max_retries == 0 or _chance("fails", message_id) >= self.failure_rate:
            return 0
        return 1 + int(_chance("times", message_id) * self.max_retries)

    def fails(self, message_id: str, attempt: int) -> bool:
        """Whether this attempt (1 is the first) fails."""
        return self.always_fails(message_id) or attempt <= self.failures(message_id)


def _chance(question: str, message_id: str) -> float:
    """A number from 0 to below 1 that looks random, but is always the same for this question and message."""
    digest = hashlib.blake2b(f"{question}:{message_id}".encode(), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48
