"""Kills a process at one call of one function of the product, or of a library that it calls."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from importlib import import_module
from pathlib import Path
from types import GeneratorType
from typing import Any

from rebound_celery.destinations import Delivered
from tests.acceptance.crash_points.calls import RUN_SCRIPT


class KillTarget(StrEnum):
    """The process that is killed."""

    #: The process that was started, by itself.
    PROCESS = "process"
    #: A child of its pool, by itself.
    CHILD = "child"
    #: The process that was started, by its child, which lives on.
    PARENT = "parent"


@dataclass(frozen=True)
class Call:
    """A call of the function: its arguments, and its result if it has returned."""

    args: tuple[Any, ...]
    result: Any = None


@dataclass(frozen=True)
class Kill:
    """The moment of a kill.

    Attributes:
        when: "before" the call, or "after" it. After it, all of its effects exist, but its caller has no answer yet.
        call: `module:function` or `module:Class.method`.
        script: for calls that run a script of the schedule, the name of the script.
        matching: a condition; only calls that meet it count.
        number: the number of the call among these; the first is 1.
        target: the process that is killed.
        pause_s: how long this thread waits before the kill, in seconds. Meanwhile other threads have the time for a
            fault, for example to commit a record whose retry is not stored.
    """

    when: str
    call: str
    script: str | None = None
    matching: Callable[[Call], Any] = lambda _call: True
    number: int = 1
    target: KillTarget = KillTarget.PROCESS
    pause_s: float = 0.0


def arm(kill: Kill, marker: Path) -> None:
    """Let the first process that comes to this moment kill. A process that finds the file `marker` goes on normally.

    A function is replaced in every module that has imported it.
    """
    module, _, path = kill.call.partition(":")
    owner: Any = import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    started_in = os.getpid()
    left = kill.number

    def reached(call: Call) -> None:
        nonlocal left
        in_child = os.getpid() != started_in
        if in_child == (kill.target is KillTarget.PROCESS) or (kill.script and call.args[1] != kill.script):
            return
        if not kill.matching(call):
            return
        left -= 1
        if left == 0:
            time.sleep(kill.pause_s)
            _kill(started_in if kill.target is KillTarget.PARENT else os.getpid(), marker)

    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        # A generator can be read only once, so it becomes a list for both readers.
        args = tuple(list(one) if isinstance(one, GeneratorType) else one for one in args)
        if kill.when == "before":
            reached(Call(args))
            return original(*args, **kwargs)
        result = original(*args, **kwargs)
        reached(Call(args, result))
        return result

    holders = (
        [owner]
        if outer
        else [one for one in list(sys.modules.values()) if getattr(one, "__dict__", {}).get(name) is original]
    )
    for holder in holders:
        setattr(holder, name, wrapped)


def _kill(target: int, marker: Path) -> None:
    try:
        descriptor = os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return
    os.write(descriptor, json.dumps({"killer": os.getpid(), "target": target}).encode())
    # The interpreter lets no other thread run before this is done.
    os.kill(target, signal.SIGKILL)


# Names for the moments in the table


def before(call: str, **options: Any) -> Kill:
    return Kill("before", call, **options)


def after(call: str, **options: Any) -> Kill:
    return Kill("after", call, **options)


def before_script(name: str, **options: Any) -> Kill:
    """Return the moment before Redis gets a script of the schedule."""
    return Kill("before", RUN_SCRIPT, script=name, **options)


def after_script(name: str, **options: Any) -> Kill:
    """Return the moment after Redis has run the script, before its answer is used."""
    return Kill("after", RUN_SCRIPT, script=name, **options)


# Conditions for calls


def found(call: Call) -> bool:
    """Return whether the poll brought records."""
    return bool(call.result)


def of_something(call: Call) -> bool:
    """Return whether a commit covers a record. A consumer also commits the offset at which it begins."""
    return any(getattr(mark, "offset", mark) for mark in call.args[1].values())


def claimed(call: Call) -> bool:
    """Return whether the claim brought messages."""
    _, ((_wait_ms, _unknown, ids, _messages),) = call.result
    return bool(ids)


def confirmed(call: Call) -> bool:
    """Return whether Kafka has confirmed the record."""
    return isinstance(call.result, Delivered)


def ends(what: str) -> Callable[[Call], bool]:
    """Return the condition that a settle call has an outcome of this kind."""
    return lambda call: any(what in one.arguments for one in call.args[2])


def broker_has_it(call: Call) -> Any:
    """Wait until Kafka has confirmed the record, before the product itself waits for the confirmation."""
    sent = call.args[2]
    # A record that is refused at once has no future.
    return hasattr(sent, "get") and sent.get(timeout=30)


def several(call: Call) -> bool:
    """Return whether more than one message is stored. One message has three arguments, after the three of its lane."""
    return any(len(one.arguments) > 3 + 1 + 3 + 3 for one in call.args[2])
