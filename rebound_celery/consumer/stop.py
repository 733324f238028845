"""Tells the loop to stop."""

from __future__ import annotations


class StopFlag:
    """Whether a consumer is to stop. Plain attributes: a signal handler may interrupt a thread that holds a lock."""

    def __init__(self) -> None:
        #: Finish the records that are started, then end.
        self.stop = False
        #: End without waiting for the handlers.
        self.at_once = False
