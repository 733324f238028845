"""What the doctor examines follows from what the app has: Rebound or the schedule alone, Kafka or none."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from packaging.specifiers import SpecifierSet

from rebound_celery import Rebound, install_schedule
from rebound_celery.compat import versions
from rebound_celery.operate.doctor import examine
from rebound_celery.operate.finding import NOTE, OK, PROBLEM, WARNING, Finding


def make_app(url: str, **settings: Any) -> Celery:
    app = Celery("examined", broker=url, set_as_current=False)
    Rebound(app, **settings)
    return app


def by_subject(findings: list[Finding]) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in findings:
        found.setdefault(finding.subject, []).append(finding)
    return found


def test_an_app_with_the_schedule_alone_has_no_problem(redis_url: str) -> None:
    app = Celery("alone", broker=redis_url, set_as_current=False)
    install_schedule(app)

    findings = by_subject(examine(app, patience_s=0.2))

    assert set(findings) == {"packages", "redis", "workers"}
    assert not [each for subject in findings.values() for each in subject if each.level == PROBLEM]


@pytest.mark.parametrize("kafka", [True, False])
def test_an_app_without_kafka_has_no_problem(redis_url: str, kafka: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REBOUND_KAFKA_BROKERS", raising=False)
    monkeypatch.setattr("rebound_celery.operate.doctor_kafka._BOOTSTRAP_TIMEOUT_MS", 300)

    findings = by_subject(examine(make_app(redis_url), patience_s=0.2, kafka=kafka))

    assert not [each for subject in findings.values() for each in subject if each.level == PROBLEM]
    assert ("kafka" in findings) == kafka
    if kafka:
        assert findings["kafka"][0].level in (NOTE, OK, WARNING)


@pytest.mark.parametrize("options", [{"security.protocol": "PLAINTEXT"}, {"acks": 1}])
def test_a_wrong_option_of_the_producer_is_a_problem(redis_url: str, options: dict[str, Any]) -> None:
    app = make_app(redis_url, kafka_options=options, kafka_brokers="127.0.0.1:1")

    (finding,) = by_subject(examine(app, patience_s=0.2))["producer"]

    assert finding.level == PROBLEM
    assert next(iter(options)) in finding.text


def test_a_worker_says_at_its_start_which_option_is_wrong(caplog: pytest.LogCaptureFixture, redis_url: str) -> None:
    app = make_app(redis_url, kafka_options={"compresion_type": "gzip"})

    app.WorkController(hostname="w@here")  # it sends worker_init

    (record,) = [record for record in caplog.records if record.__dict__.get("event") == "wrong_option"]
    assert "compresion_type" in record.getMessage()


def test_an_untested_version_of_celery_is_a_warning(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(versions.TESTED, "celery", SpecifierSet("<5.0"))
    app = Celery("plain", broker=redis_url, set_as_current=False)
    install_schedule(app)

    findings = examine(app, patience_s=0.1)

    (finding,) = [each for each in findings if each.subject == "packages"]
    assert finding.level == WARNING
    assert "rebound was tested with celery <5.0; install celery<5.0" in finding.text
    assert not [each for each in findings if each.level == PROBLEM and "celery" in each.text]


@pytest.fixture
def silent() -> Iterator[str]:
    """`host:port` of a server that takes connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("is_silent", [False, True])
def test_servers_that_are_away_are_told_within_five_seconds(silent: str, is_silent: bool) -> None:
    """Redis and Kafka are asked at the same time, and the workers not at all, because they answer through Redis."""
    address = silent if is_silent else "127.0.0.1:1"
    app = make_app(f"redis://{address}/0", kafka_brokers=address)
    began = time.monotonic()

    findings = examine(app)

    # The margin is for a machine with much else to do.
    assert time.monotonic() - began < 5 + 2
    levels = {one.subject: one.level for one in findings}
    assert (levels["redis"], levels["kafka"], levels["workers"]) == (PROBLEM, PROBLEM, WARNING)
    (redis,) = [one for one in findings if one.subject == "redis"]
    assert address in redis.text
