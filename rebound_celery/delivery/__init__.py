"""Stage 3: a due message goes to its destination, and what became of it is settled."""

from __future__ import annotations

from .form import TASK_NAME
from .task import DeliverTask

__all__ = ["TASK_NAME", "DeliverTask"]
