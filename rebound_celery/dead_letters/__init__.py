"""Stage 5: reading and removing what was given up."""

from __future__ import annotations

from .dead_set import DeadSet

__all__ = ["DeadSet"]
