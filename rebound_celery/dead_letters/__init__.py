"""Stage 5: reads and removes dead letters."""

from __future__ import annotations

from .dead_set import DeadSet

__all__ = ["DeadSet"]
