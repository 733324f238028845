"""Retries for consumers that are not rebound's: a loop of your own hands its failed records over.

`FailureHandling` is the part of `Rebound` that takes them, and `read_record` reads the records of other Kafka clients.
"""

from __future__ import annotations

from .handling import FailureHandling, FailureOptions, Handled
from .reading import read_record

__all__ = ["FailureHandling", "FailureOptions", "Handled", "read_record"]
