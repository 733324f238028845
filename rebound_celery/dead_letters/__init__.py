"""Stage 5: reads, replays and removes dead letters, in Redis and in Kafka topics."""

from __future__ import annotations

from .dead_letters import DeadLetters
from .dead_set import DeadSet
from .errors import NoTopicError
from .letter import Letter
from .looking import DeadLetterPage
from .replay_values import UNCLAIMED_MS, Order, Passed, Replaced, ReplayResult, check_options
from .replaying import Replay
from .walking import Access, Extent

__all__ = [
    "UNCLAIMED_MS",
    "Access",
    "DeadLetterPage",
    "DeadLetters",
    "DeadSet",
    "Extent",
    "Letter",
    "NoTopicError",
    "Order",
    "Passed",
    "Replaced",
    "Replay",
    "ReplayResult",
    "check_options",
]
