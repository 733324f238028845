"""Runs a replay of dead letters for a command: shows how far it is, and says why it does not go on."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import click

from rebound_celery.clock import SYSTEM_CLOCK, Clock
from rebound_celery.dead_letters import UNCLAIMED_MS, Replay, ReplayResult
from rebound_celery.errors import UnreachableError
from rebound_celery.operate.cli.output import say
from rebound_celery.operate.cli.progress import Watched, progress_bar
from rebound_celery.operate.cli.signals import StoppedBySignal
from rebound_celery.selection import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds without a delivery after which the command says so.
STALLED_S = 10.0

#: Seconds between two lines about the same.
_AGAIN_S = 60.0


def run_replay(ctx: click.Context, replay: Replay, *, shown: bool) -> ReplayResult:
    """Run a replay to its end, and close it.

    Args:
        ctx: the context of the command.
        replay: the replay.
        shown: whether a bar is shown, if stderr is a terminal.
    """
    last = ReplayResult()
    with closing(replay), progress_bar("replayed", shown=shown, acts=True) as watched:
        watch = _Watch(watched, _worker_command(ctx), lambda text: say(text, err=True), SYSTEM_CLOCK)

        def tell(so_far: ReplayResult) -> None:
            nonlocal last
            last = so_far
            watch(so_far)

        try:
            return replay.run(tell)
        except (StoppedBySignal, UnreachableError):
            say(f"Stopped. Until then: {last.replayed:,} replayed. {_how_to_go_on(last)}", err=True)
            raise


def _how_to_go_on(result: ReplayResult) -> str:
    in_topic = (result.position or "").startswith("kafka:")
    if result.waiting and not in_topic:
        # What was stored has left Redis: the next replay does not know that its messages are still on their way.
        return (
            f"{result.waiting:,} wait for earlier ones with their keys. Once those are delivered "
            "(`celery rebound pending ls`), the same command goes on; earlier, it may change the order of a key."
        )
    return "The same command goes on."


class _Watch:
    """Shows the results of a replay's steps, and says once a minute why no step does anything."""

    def __init__(self, shown: Watched, worker: str, tell: Callable[[str], None], clock: Clock) -> None:
        self._shown = shown
        self._worker = worker
        self._tell = tell
        self._clock = clock
        self._stored = -1
        self._moved_s = clock.monotonic()
        self._told_s: float | None = None

    def __call__(self, result: ReplayResult) -> None:
        stored = result.replayed + result.parked + result.repeated
        # A letter is done with once it is stored or left out, and not when it is read.
        open_ = result.matched - stored - result.left
        self._shown(
            Progress(result.read - open_, result.total, result.matched, result.replayed),
            f", {result.waiting:,} wait" if result.waiting else "",
        )
        now_s = self._clock.monotonic()
        if stored != self._stored or not result.waiting:
            self._stored, self._moved_s, self._told_s = stored, now_s, None
        if self._told_s is not None and now_s - self._told_s < _AGAIN_S:
            return
        reason = self._reason(result, now_s - self._moved_s)
        if reason is not None:
            self._told_s = now_s
            self._tell(
                f"{result.waiting:,} dead letters wait until earlier ones with their keys are delivered: {reason}. "
                "The replay goes on then; Ctrl-C ends it"
            )

    def _reason(self, result: ReplayResult, still_s: float) -> str | None:
        if result.unclaimed_ms >= UNCLAIMED_MS:
            return f"no worker has claimed anything for {result.unclaimed_ms // 1000} s; start one: {self._worker}"
        if result.waiting and still_s >= STALLED_S:
            return (
                f"none was delivered for {still_s:.0f} s; `celery rebound lanes ls` shows pauses, rates and open "
                "circuit breakers, and `celery rebound pending ls` shows errors"
            )
        return None


def _worker_command(ctx: click.Context) -> str:
    """The command that starts a worker which claims what a replay stores."""
    from rebound_celery import registry

    app = ctx.find_root().params.get("app")
    queue = registry.find(ctx.obj.app).settings.queue
    return f"celery -A {app if isinstance(app, str) else '<app>'} worker -Q {queue}"
