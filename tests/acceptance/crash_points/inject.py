"""Kills a process at one call of one function of the product, or of a library that it calls."""

from __future__ import annotations

import json
import os
import signal
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


class Victim(StrEnum):
    """Who is killed."""

    #: The process that was started, by itself.
    PROCESS = "process"
    #: A child of its pool, by itself.
    CHILD = "child"
    #: The process that was started, by its child, which lives on.
    PARENT = "parent"


@dataclass(frozen=True)
class Call:
    """A call of the function: its arguments, and its result where it has one already."""

    args: tuple[Any, ...]
    result: Any = None


@dataclass(frozen=True)
class Kill:
    """The moment of a kill.

    Attributes:
        when: "before" the call, or "after" it: all of its effects are there, and its caller does not know yet.
        call: `module:function` or `module:Class.method`.
        script: of the calls that run a script of the schedule, those of this one.
        matching: which calls count.
        number: the how-manieth of these it is.
        victim: who is killed.
        pause_s: how long this thread rests there before the kill. Meanwhile the others may do what they should not,
            such as commit a record whose retry is not stored.
    """

    when: str
    call: str
    script: str | None = None
    matching: Callable[[Call], Any] = lambda _call: True
    number: int = 1
    victim: Victim = Victim.PROCESS
    pause_s: float = 0.0


def arm(kill: Kill, marker: Path) -> None:
    """Let the first process that comes to this moment kill; who finds `marker` there goes on as ever."""
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
        if in_child == (kill.victim is Victim.PROCESS) or (kill.script and call.args[1] != kill.script):
            return
        if not kill.matching(call):
            return
        left -= 1
        if left == 0:
            time.sleep(kill.pause_s)
            _kill(started_in if kill.victim is Victim.PARENT else os.getpid(), marker)

    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        # What is made one by one can be looked at once only.
        args = tuple(list(one) if isinstance(one, GeneratorType) else one for one in args)
        if kill.when == "before":
            reached(Call(args))
            return original(*args, **kwargs)
        result = original(*args, **kwargs)
        reached(Call(args, result))
        return result

    setattr(owner, name, wrapped)


def _kill(victim: int, marker: Path) -> None:
    try:
        descriptor = os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return
    os.write(descriptor, json.dumps({"killer": os.getpid(), "victim": victim}).encode())
    # The interpreter lets no other thread run before this is done.
    os.kill(victim, signal.SIGKILL)


# How the table speaks of moments


def before(call: str, **options: Any) -> Kill:
    return Kill("before", call, **options)


def after(call: str, **options: Any) -> Kill:
    return Kill("after", call, **options)


def before_script(name: str, **options: Any) -> Kill:
    """Before Redis gets a script of the schedule."""
    return Kill("before", RUN_SCRIPT, script=name, **options)


def after_script(name: str, **options: Any) -> Kill:
    """Redis has run the script; its answer is looked at by nobody."""
    return Kill("after", RUN_SCRIPT, script=name, **options)


# Which calls count


def found(call: Call) -> bool:
    """The poll brought records."""
    return bool(call.result)


def of_something(call: Call) -> bool:
    """Offsets that lie behind a record: a consumer also commits where it begins."""
    return any(getattr(mark, "offset", mark) for mark in call.args[1].values())


def claimed(call: Call) -> bool:
    """The claim brought messages."""
    _, ((_wait_ms, _unknown, ids, _messages),) = call.result
    return bool(ids)


def confirmed(call: Call) -> bool:
    """Kafka has taken the record."""
    return isinstance(call.result, Delivered)


def ends(what: str) -> Callable[[Call], bool]:
    """The settling has an end of this kind among others."""
    return lambda call: any(what in one.arguments for one in call.args[2])


def broker_has_it(call: Call) -> Any:
    """Kafka has taken the record whose confirmation is asked for next: wait for it in the product's place."""
    sent = call.args[2]
    # What Kafka refuses at once has no future.
    return hasattr(sent, "get") and sent.get(timeout=30)


def several(call: Call) -> bool:
    """More than one message is stored: one has a lane, and three arguments of its own behind three of the lane's."""
    return any(len(one.arguments) > 3 + 1 + 3 + 3 for one in call.args[2])
