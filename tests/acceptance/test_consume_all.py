"""`celery rebound consume --all` as a process: the consumers that an app declares, and how they stop together."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from rebound_celery.embedded import free_port
from tests.processes import Process

APP = ("-m", "celery", "-A", "tests.acceptance.apps.declared")


@pytest.mark.parametrize("end", ["a signal", "an error"])
def test_all_consumers_of_an_app_run_and_stop_together(
    end: str,
    run_process: Callable[..., Process],
    redis_url: str,
    kafka_brokers: str,
    topic: str,
    make_topic: Callable[..., str],
    produce: Callable[..., Any],
) -> None:
    make_topic(name=f"{topic}-returns")
    environment = {"ORDERS_REDIS": redis_url, "REBOUND_KAFKA_BROKERS": kafka_brokers, "TOPIC": topic}
    run_process(*APP, "worker", "-P", "threads", "-c", "2", env=environment)
    consumers = run_process(*APP, "rebound", "consume", "--all", env=environment)
    produce(topic, [(b"a", b"one", [])])
    produce(f"{topic}-returns", [(b"a", b"two", [])])

    consumers.wait_for_output("counted two", timeout=60)
    consumers.wait_for_output("billed one attempt 2", timeout=60)
    if end == "a signal":
        consumers.signal(signal.SIGTERM)
        status = 0
    else:
        produce(f"{topic}-returns", [(b"a", b"the end", [])])
        status = 7

    assert consumers.wait(40) == status
    output = consumers.tail()
    assert f"Group {topic}-bill:" in output
    assert f"Group {topic}-stock:" in output


def test_a_signal_ends_consumers_that_wait_for_their_servers(run_process: Callable[..., Process]) -> None:
    environment = {
        "ORDERS_REDIS": f"redis://127.0.0.1:{free_port()}/0",
        "REBOUND_KAFKA_BROKERS": f"127.0.0.1:{free_port()}",
    }
    consumers = run_process(*APP, "rebound", "consume", "--all", "--wait", env=environment)

    consumers.wait_for_output("trying again until it answers", timeout=60)
    consumers.signal(signal.SIGTERM)

    assert consumers.wait(20) == 0
