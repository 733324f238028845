"""What waits in the schedule, for operators: lists it, counts it, and lets it be delivered now, later or never."""

from __future__ import annotations

from .acting import teller_of
from .paging import PendingPage
from .pending import Pending, pending_of

__all__ = ["Pending", "PendingPage", "pending_of", "teller_of"]
