"""`celery rebound consume` as a process beside a plain worker: a failed record to its end, and clear error texts."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rebound_celery.embedded import free_port
from tests.processes import Process
from tests.servers import RedisServer
from tests.waiting import wait_until

APP = ("-m", "celery", "-A", "tests.acceptance.apps.orders")


@pytest.fixture
def consume(run_process: Callable[..., Process]) -> Callable[..., Process]:
    """`consume(topic, redis_url, brokers, *options)` starts a consumer with the handler `picky`."""

    def start(topic: str, redis_url: str, brokers: str, *options: str) -> Process:
        return run_process(
            *(*APP, "rebound", "consume", "--topic", topic, "--group", f"{topic}-group"),
            *("--handler", "tests.acceptance.apps.handlers:picky", "--max-retries", "2", "--base-delay", "1"),
            *("--option", "session_timeout_ms=6000", *options),
            env={"ORDERS_REDIS": redis_url, "REBOUND_KAFKA_BROKERS": brokers},
        )

    return start


def headers(record: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in record.headers}


def test_failed_records_come_back_with_growing_delays_or_end_as_dead_letters(
    consume: Callable[..., Process],
    run_process: Callable[..., Process],
    redis_url: str,
    kafka_brokers: str,
    topic: str,
    make_topic: Callable[..., str],
    produce: Callable[..., Any],
    read_topic: Callable[..., Any],
) -> None:
    make_topic(name=f"{topic}-dlq")
    environment = {"ORDERS_REDIS": redis_url, "REBOUND_KAFKA_BROKERS": kafka_brokers}
    run_process(*APP, "worker", "-P", "threads", "-c", "2", "-l", "INFO", env=environment)
    consumer = consume(topic, redis_url, kafka_brokers)
    produce(topic, [(b"a", b"once", []), (b"b", b"twice", [("color", b"\xff")]), (b"c", b"never", [])])

    (letter,) = read_topic(f"{topic}-dlq", 1, timeout=60)
    consumer.wait_for_output("handled twice attempt 3", timeout=30)
    consumer.signal(signal.SIGTERM)

    assert consumer.wait(40) == 0
    assert consumer.output.count("handled once") == 1
    assert consumer.output.count("handled twice") == 3
    assert consumer.output.count("handled never") == 3
    assert '"DeadMessages": 1' in consumer.output
    assert '"RetriedMessages": 4' in consumer.output
    assert (letter.key, letter.value) == (b"c", b"never")
    told = headers(letter)
    assert (told["rebound-attempt"], told["rebound-reason"]) == ("3", "retries-exhausted")
    assert told["rebound-exception-class"] == "ValueError"
    assert told["rebound-group"] == f"{topic}-group"
    assert told["rebound-origin-topic"] == topic
    assert "never is refused" in told["rebound-exception-stacktrace"]
    times = [r.timestamp for r in read_topic(topic, 7, timeout=20) if r.value == b"never"]
    assert len(times) == 3
    assert times[1] - times[0] >= 1000
    assert times[2] - times[1] >= 2000


#: A project of Django whose handler's module imports a model, which Django allows only once it is set up.
DJANGO_PROJECT = {
    "proj/__init__.py": "",
    "proj/settings.py": (
        "import os\nSECRET_KEY = 'x'\nINSTALLED_APPS = ['shop']\nCELERY_BROKER_URL = os.environ['ORDERS_REDIS']\n"
        "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}}\n"
    ),
    "proj/celery.py": (
        "import os\nfrom celery import Celery\nfrom rebound_celery import Rebound\n"
        "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'proj.settings')\napp = Celery('proj')\n"
        "app.config_from_object('django.conf:settings', namespace='CELERY')\napp.autodiscover_tasks()\nRebound(app)\n"
    ),
    "shop/__init__.py": "",
    "shop/models.py": (
        "from django.db import models\nclass Order(models.Model):\n    ref = models.CharField(max_length=9)\n"
    ),
    "shop/handlers.py": (
        "from shop.models import Order\ndef handle(record):\n    print('handled', Order(ref='7').ref, flush=True)\n"
    ),
}


def test_django_is_set_up_before_the_handler_is_imported(
    run_process: Callable[..., Process],
    redis_url: str,
    kafka_brokers: str,
    topic: str,
    produce: Callable[..., Any],
    tmp_path: Path,
) -> None:
    for name, text in DJANGO_PROJECT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    produce(topic, [(None, b"order", [])])

    consumer = run_process(
        *("-m", "celery", "-A", "proj.celery", "rebound", "consume", "--topic", topic, "--group", f"{topic}-group"),
        *("--handler", "shop.handlers:handle"),
        env={"ORDERS_REDIS": redis_url, "REBOUND_KAFKA_BROKERS": kafka_brokers, "PYTHONPATH": str(tmp_path)},
    )

    consumer.wait_for_output("handled 7", timeout=60)


@pytest.mark.parametrize("away", ["Kafka", "Redis"])
def test_server_that_is_away_at_the_start_is_named_and_the_status_is_1(
    consume: Callable[..., Process], redis_url: str, kafka_brokers: str, topic: str, away: str
) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    consumer = consume(
        topic,
        f"redis://{nowhere}/0" if away == "Redis" else redis_url,
        nowhere if away == "Kafka" else kafka_brokers,
    )

    assert consumer.wait(60) == 1
    assert f"cannot reach {away} at" in consumer.output
    assert nowhere in consumer.output
    assert "Traceback" not in consumer.output


def test_consumer_that_waits_goes_on_when_redis_comes(
    consume: Callable[..., Process],
    kafka_brokers: str,
    topic: str,
    produce: Callable[..., Any],
) -> None:
    port = free_port()
    consumer = consume(topic, f"redis://127.0.0.1:{port}/0", kafka_brokers, "--wait")
    consumer.wait_for_output("cannot reach Redis", timeout=60)
    with RedisServer(port):
        produce(topic, [(b"a", b"once", [])])
        consumer.wait_for_output("handled once attempt 1", timeout=60)
        consumer.stop()


def test_restarted_redis_pauses_the_consumer_and_loses_no_failure(
    consume: Callable[..., Process],
    kafka_brokers: str,
    topic: str,
    make_topic: Callable[..., str],
    produce: Callable[..., Any],
    read_topic: Callable[..., Any],
    run_process: Callable[..., Process],
    tmp_path: Path,
) -> None:
    make_topic(name=f"{topic}-dlq")
    with RedisServer(aof_dir=tmp_path / "aof") as server:
        consumer = consume(topic, server.url, kafka_brokers)
        produce(topic, [(b"a", b"once", [])])
        consumer.wait_for_output("handled once attempt 1", timeout=60)
        server.kill()
        produce(topic, [(b"c", b"never", []), (b"d", b"never", [])])
        consumer.wait_for_output("handled never attempt 1", timeout=30, times=2)
        server.start()
        environment = {"ORDERS_REDIS": server.url, "REBOUND_KAFKA_BROKERS": kafka_brokers}
        worker = run_process(*APP, "worker", "-P", "threads", "-c", "2", "-l", "INFO", env=environment)

        letters = read_topic(f"{topic}-dlq", 2, timeout=60)

        assert sorted(letter.key for letter in letters) == [b"c", b"d"]
        assert {headers(letter)["rebound-attempt"] for letter in letters} == {"3"}
        consumer.stop()
        worker.stop()


def test_health_file_is_kept_new_while_it_consumes_and_removed_at_its_end(
    consume: Callable[..., Process],
    redis_url: str,
    kafka_brokers: str,
    topic: str,
    produce: Callable[..., Any],
    tmp_path: Path,
) -> None:
    file = tmp_path / "consumer.health"
    consumer = consume(topic, redis_url, kafka_brokers, "--health-file", str(file))
    produce(topic, [(b"a", b"once", [])])
    consumer.wait_for_output("handled once attempt 1", timeout=60)
    wait_until(lambda: json.loads(file.read_text())["state"] == "ok")
    changed_at = file.stat().st_mtime
    wait_until(lambda: file.stat().st_mtime > changed_at)

    consumer.signal(signal.SIGTERM)

    assert consumer.wait(40) == 0
    assert not file.exists()
