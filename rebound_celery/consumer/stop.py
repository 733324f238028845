"""The flag that stops the loop."""

from __future__ import annotations


class StopFlag:
    """Whether a consumer has to stop. It has no lock, because a signal handler may interrupt a thread that holds it."""

    def __init__(self) -> None:
        #: Finish the records that are started, then end.
        self.stop = False
        #: End without waiting for the handlers.
        self.at_once = False
