"""Which errors of Redis a worker waits for."""

from __future__ import annotations

import pytest

from rebound_celery.schedule.transport.refusals import Parser
from rebound_celery.schedule.transport.transport import Transport

PASSING = [
    "OOM command not allowed when used memory > 'maxmemory'.",
    "READONLY You can't write against a read only replica.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "NOREPLICAS Not enough good replicas to write.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "LOADING Redis is loading the dataset in memory",
    "CLUSTERDOWN The cluster is down",
    "CLUSTERDOWN Hash slot not served",
    "TRYAGAIN Multiple keys request during rehashing of slot",
]

LASTING = [
    "NOPERM User worker has no permissions to run the 'evalsha' command",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "CROSSSLOT Keys in request don't hash to the same slot",
    "MOVED 3999 127.0.0.1:6381",
    "ERR unknown command 'BRPOP'",
]


@pytest.mark.parametrize("answer", PASSING)
def test_a_refusal_that_passes_is_as_a_lost_connection_to_a_worker(answer: str) -> None:
    assert isinstance(Parser.parse_error(answer), Transport.connection_errors)


@pytest.mark.parametrize("answer", LASTING)
def test_a_refusal_that_lasts_ends_a_worker(answer: str) -> None:
    error = Parser.parse_error(answer)

    assert not isinstance(error, Transport.connection_errors)
    assert isinstance(error, Transport.channel_errors)
