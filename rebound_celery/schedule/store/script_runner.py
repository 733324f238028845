"""Runs the schedule's scripts. Redis runs each as a whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha1
from importlib.resources import files
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

from hiredis import pack_command
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError

from .envelope import to_id

T = TypeVar("T")

#: A worker that sleeps looks again within this time. What is due later needs no wake-up call: it will be seen.
MAX_SLEEP_MS = 3_000

#: How many messages one script call may touch; longer lists are cut, so that Redis never stands still for long.
CHUNK = 500

#: How often a call is made again because the lane of a message was not known, or has changed meanwhile.
ROUNDS = 8

#: Scripts that must run when Redis is out of memory, or it could never be drained. Redis 7 knows the flag; with 6.2
#: there is no such way.
_ALLOW_OOM = "#!lua flags=allow-oom\n"
_DRAINING = frozenset(
    {"breaker", "chain", "claim", "confirm", "settle", "renew", "move", "remove_dead", "expire", "purge", "job"}
)


def _read(name: str) -> str:
    return files(__package__).joinpath("scripts", f"{name}.lua").read_text("utf-8")


#: Scripts that change chains.
_CHAINING = frozenset({"chain", "settle", "move"})

#: Scripts that change counters with labels.
_COUNTING = frozenset({"claim", "enqueue", "settle"})

_COMMON = _read("common")
_CHAINED = _read("chained")
_COUNTED = _read("counted")
_SOURCES = {
    name: (_ALLOW_OOM if name in _DRAINING else "")
    + _COMMON
    + (_CHAINED if name in _CHAINING else "")
    + (_COUNTED if name in _COUNTING else "")
    + _read(name)
    for name in (
        "breaker",
        "chain",
        "chains",
        "claim",
        "confirm",
        "enqueue",
        "expire",
        "health",
        "job",
        "keep_dead",
        "limit",
        "locate",
        "move",
        "purge",
        "remove_dead",
        "renew",
        "revive",
        "settle",
        "unique",
    )
}


def _digest_of(source: str) -> str:
    return sha1(source.encode(), usedforsecurity=False).hexdigest()


#: script name -> its hash, as the last server that was asked knows it.
_digests = {name: _digest_of(source) for name, source in _SOURCES.items()}

#: How often a server that does not know a script is told it, for one call. More than once only if another server takes
#: its place meanwhile.
_LOADS = 3


class Call(NamedTuple):
    """One call of a script: all keys that it touches, and its arguments."""

    keys: Sequence[Any]
    arguments: Sequence[Any]


def chunks(items: Iterable[T]) -> Iterator[Sequence[T]]:
    """The items in lists that one script call may touch."""
    rest = iter(items)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def run_script(
    client: Any, name: str, calls: Iterable[Call], piggybacked: Sequence[Sequence[Any]] = ()
) -> tuple[list[Call], list[Any]]:
    """Run one of the schedule's scripts for each of `calls`; returns the calls, and what each answered.

    All are sent before the first answer is read: Redis works on one while the next is made. The commands in
    `piggybacked` are sent after them, in the same round trip; their answers are ignored.

    A connection that has been closed is opened once more, and the calls are sent again: every script may run twice. A
    server that does not know the script is told it, whichever connection leads there. A time-out is not waited for
    twice.

    Raises:
        ResponseError: the first error that was an answer; other calls may have run.
        redis.exceptions.ConnectionError, TimeoutError: if Redis is away.
    """
    rest = iter(calls)
    first = next(rest, None)
    if first is None:
        return [], []
    rest = chain((first,), rest)
    sent: list[Call] = []
    # A client may have a connection of its own.
    connection = client.connection or client.connection_pool.get_connection()
    try:
        try:
            answers = _exchange(connection, name, rest, sent, piggybacked)
        except RedisConnectionError:
            connection.disconnect()
            connection.connect()
            again, sent = chain(list(sent), rest), []
            answers = _exchange(connection, name, again, sent, piggybacked)
        _repeat_unknown(connection, name, sent, answers)
        if any(isinstance(answer, ReadOnlyError) for answer in answers):
            # It was the master. It may live on as a replica for ever, while its address leads to the new master.
            connection.disconnect()
    except BaseException:
        # Also for a signal's exception: whoever uses the connection next must not read the answers to this.
        connection.disconnect()
        raise
    finally:
        if connection is not client.connection:
            client.connection_pool.release(connection)
    for answer in answers:
        if isinstance(answer, ResponseError):
            raise answer
    return sent, answers


def _exchange(
    connection: Any, name: str, calls: Iterator[Call], sent: list[Call], piggybacked: Sequence[Sequence[Any]] = ()
) -> list[Any]:
    """As redis-py does it, without what it does around every command, which costs as much as the command.

    Puts every call that it takes into `sent`, also those after a fault.
    """
    digest = _digests[name]
    for call in calls:
        sent.append(call)
        connection.send_packed_command([_packed("EVALSHA", digest, len(call.keys), *call.keys, *call.arguments)])
    if piggybacked:
        connection.send_packed_command([b"".join(pack_command(tuple(command)) for command in piggybacked)])
    answers = [_answer(connection) for _ in sent]
    for _ in piggybacked:
        _answer(connection)
    return answers


def _repeat_unknown(connection: Any, name: str, sent: Sequence[Call], answers: list[Any]) -> None:
    """Run again what the server did not know: another server, one that was restarted, or SCRIPT FLUSH.

    A script that is not known has not run.
    """
    for _ in range(_LOADS):
        missed = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if not missed:
            return
        _load(connection, name)
        again = _exchange(connection, name, iter([sent[index] for index in missed]), [])
        for index, answer in zip(missed, again, strict=True):
            answers[index] = answer


def _load(connection: Any, name: str) -> None:
    source = _SOURCES[name]
    answer = _command(connection, "SCRIPT", "LOAD", source)
    if isinstance(answer, ResponseError) and name in _DRAINING:
        # Redis before 7 takes the flag's line for code.
        source = source[len(_ALLOW_OOM) :]
        answer = _command(connection, "SCRIPT", "LOAD", source)
    if isinstance(answer, ResponseError):
        raise answer
    _digests[name] = _digest_of(source)


def _command(connection: Any, *command: str) -> Any:
    connection.send_packed_command([_packed(*command)])
    return _answer(connection)


def _packed(*command: Any) -> bytes:
    packed: bytes
    try:
        packed = pack_command(command)
    except UnicodeEncodeError:
        # Somewhere is an id that is no UTF-8.
        packed = pack_command(tuple(to_id(part) if isinstance(part, str) else part for part in command))  # type: ignore[arg-type]
    return packed


def _answer(connection: Any) -> Any:
    """A command's answer; an error is an answer too, and others may follow it."""
    try:
        return connection.read_response()
    except ResponseError as error:
        return error
