"""What waits in the schedule, for operators: lists it, counts it, and lets it be delivered now, later or never."""

from __future__ import annotations

from .acting import teller_of
from .of_app import pending_of
from .paging import PendingPage
from .pending import Pending
from .stats import QueueStats

__all__ = ["Pending", "PendingPage", "QueueStats", "pending_of", "teller_of"]
