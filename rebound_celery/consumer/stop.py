"""How a stop reaches the loop."""

from __future__ import annotations


class StopFlag:
    """How a stop reaches the loop. Plain attributes: a signal handler may interrupt a thread that holds a lock."""

    def __init__(self) -> None:
        #: Finish what is begun, then end.
        self.stop = False
        #: Do not even wait for that.
        self.hurry = False
