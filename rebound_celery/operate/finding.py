"""A finding of the doctor."""

from __future__ import annotations

from dataclasses import dataclass

PROBLEM = "problem"
WARNING = "warning"
#: Whether it matters, the user knows.
NOTE = "note"
OK = "ok"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check of the doctor found.

    Attributes:
        level: "problem" (messages may be lost, or are not delivered), "warning", "note", or "ok".
        subject: what was checked.
        text: what was found, and what to do.
    """

    level: str
    subject: str
    text: str
