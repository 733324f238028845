"""What a post is that was not begun: its message waits, and no attempt is used up."""

from __future__ import annotations

from . import Held

#: Seconds that a message waits whose host does not answer earlier ones: as long as these have taken, within bounds.
_SHORTEST_HOLD_S = 1.0
_LONGEST_HOLD_S = 10.0


def held(shown: str, stuck_s: float) -> Held:
    """What a message is that has to wait for earlier ones; the longer these take, the longer."""
    delay_s = min(max(stuck_s, _SHORTEST_HOLD_S), _LONGEST_HOLD_S)
    return Held(f"{shown} was not begun: earlier requests to its host are still running", delay_s)


def held_by_stop(shown: str) -> Held:
    """What a message is that the stopping worker does not send any more. This says nothing of the receiver."""
    return Held(f"{shown} was not begun: the worker is stopping", _SHORTEST_HOLD_S)
