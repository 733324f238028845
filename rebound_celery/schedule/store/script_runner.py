"""The schedule's scripts, and how they are run: each runs in Redis as a whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from itertools import chain
from typing import Any

from hiredis import pack_command
from redis import exceptions
from redis.exceptions import NoScriptError, ResponseError

_SOURCES = {
    name: files(__package__).joinpath("scripts", f"{name}.lua").read_text("utf-8")
    for name in ("enqueue", "claim", "settle", "renew", "move", "withdraw")
}

#: Scripts that must run when Redis is out of memory, or it could never be drained. Redis 7 knows the flag; with 6.2
#: there is no such way.
_ALLOW_OOM = "#!lua flags=allow-oom\n"
_DRAINING = frozenset({"claim", "settle", "renew", "move", "withdraw"})

#: script name -> hash as the server knows it. A server that has forgotten is told again (NOSCRIPT).
_hashes: dict[str, str] = {}


def run_script(
    client: Any,
    name: str,
    keys: Sequence[str],
    calls: Iterable[Sequence[Any]],
    piggybacked: Sequence[Sequence[Any]] = (),
) -> list[Any]:
    """Run one of the schedule's scripts for each of `calls`, its arguments, and return what each answered.

    All are sent before the first answer is read: Redis works on one while the next is made. A server that does not
    have the script is given it. See `Store.enqueue` for `piggybacked`.

    Raises:
        ResponseError: the first error that was an answer; other calls may have run.
    """
    rest = iter(calls)
    first = next(rest, None)
    if first is None:
        return []
    digest = _hashes.get(name)
    if digest is None:
        digest = _hashes[name] = _load(client, name)
    sent, answers = _evalsha(client, digest, keys, chain((first,), rest), piggybacked)
    # Another server, a restarted one, or SCRIPT FLUSH. A script that is not there has not run.
    missed = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
    if missed:
        digest = _hashes[name] = _load(client, name)
        _, again = _evalsha(client, digest, keys, iter([sent[index] for index in missed]))
        for index, answer in zip(missed, again, strict=True):
            answers[index] = answer
    for answer in answers:
        if isinstance(answer, ResponseError):
            raise answer
    return answers


def _evalsha(
    client: Any,
    digest: str,
    keys: Sequence[str],
    calls: Iterator[Sequence[Any]],
    piggybacked: Sequence[Sequence[Any]] = (),
) -> tuple[list[Sequence[Any]], list[Any]]:
    """As `client.evalsha`, without what redis-py does around every command, which costs as much as the command.

    Returns the calls, and what each answered.
    """
    # A client may have a connection of its own.
    connection = client.connection or client.connection_pool.get_connection()
    head = ("EVALSHA", digest, len(keys), *keys)
    sent = []
    try:
        for call in calls:
            sent.append(call)
            connection.send_packed_command([pack_command((*head, *call))])
        if piggybacked:
            connection.send_packed_command([b"".join(pack_command(tuple(command)) for command in piggybacked)])
        answers = [_read(connection) for _ in sent]
        for _ in piggybacked:
            _read(connection)
    except (exceptions.ConnectionError, exceptions.TimeoutError):
        connection.disconnect()
        # As the client's own retries would do: a script that ran though its answer was lost may run again.
        sent += calls
        answers = [client.evalsha(digest, len(keys), *keys, *call) for call in sent]
    except BaseException:
        # A time limit's signal, say: whoever uses the connection next must not read the answers to this.
        connection.disconnect()
        raise
    finally:
        if connection is not client.connection:
            client.connection_pool.release(connection)
    return sent, answers


def _read(connection: Any) -> Any:
    """A command's answer; an error is an answer too, and others may follow it."""
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


def _load(client: Any, name: str) -> str:
    source = _SOURCES[name]
    if name in _DRAINING:
        try:
            return _text(client.script_load(_ALLOW_OOM + source))
        except ResponseError:
            # Redis before 7 takes the flag's line for code.
            return _text(client.script_load(source))
    return _text(client.script_load(source))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
