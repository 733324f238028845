"""What the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass

PROBLEM = "problem"
WARNING = "warning"
#: Whether it matters, the user knows.
NOTE = "note"
OK = "ok"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: "problem" (messages may be lost, or are not delivered), "warning", "note", or "ok".
        subject: what was looked at.
        text: what was found, and what to do.
    """

    level: str
    subject: str
    text: str
