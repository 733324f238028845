"""The benchmarks run and print the promised rows. No test checks their speed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.delayed_delivery_parts.goals import GOALS
from benchmarks.delayed_delivery_parts.rows import Row
from rebound_celery.embedded import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.processes import Process
    from tests.servers import ExternalRedis, RedisServer

ROOT = Path(__file__).parents[2]
SCRIPT = "benchmarks/consumer_benchmark.py"
DELAYED_DELIVERY = "benchmarks/delayed_delivery.py"


def run(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("REBOUND_", "CELERY_"))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


HEADING = "=== Rebound Consumer Benchmark ===\n\n"


def test_consumer_benchmark_prints_what_the_go_program_prints() -> None:
    """With the Go program's flags (one dash) stdout is the Go program's; in servers of its own nothing is left over."""
    flags = "-embedded -failure-rate 0.3 -duration 4s -rate 40 -base-delay 1 -topic t -group g -dead-messages"

    done = run(SCRIPT, *flags.split())

    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout[done.stdout.index("{") : done.stdout.index("}") + 1])
    total, successful, retried, errors, dead = counts.values()
    assert list(counts) == [f"{name}Messages" for name in ("Total", "Successful", "Retried", "Error", "Dead")]
    assert total == successful + retried + errors + dead
    assert errors == 0
    # Every message came to its end, and the clock ran for four seconds with the group joined.
    assert 120 <= successful + dead <= 170
    assert done.stdout == (
        f"{HEADING}✓ Consumer started\n  Topic: t\n  Group ID: g\n  Failure Rate: 30.0%\n  Duration: 4s\n\n"
        f"\n⏱️  Duration elapsed, shutting down...\n"
        f"\n=== Final Statistics ===\n{json.dumps(counts, indent=2)}\n"
        f"\nSuccess Rate: {100 * successful / total:.2f}%\nRetry Rate: {100 * retried / total:.2f}%\n"
        "\n✓ Consumer benchmark completed\n"
    )


def test_consumer_benchmark_waits_for_the_group_however_short_its_duration() -> None:
    """The clock starts when the group is joined, which takes seconds; half a second of messages is handled."""
    flags = "-embedded -failure-rate 0 -duration 500ms -rate 40 -json"

    done = run(SCRIPT, *flags.split())

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["join_s"] > result["duration_s"]
    assert 1 <= result["SuccessfulMessages"] == result["TotalMessages"] <= 30


def test_consumer_benchmark_measures_speed_on_a_prefilled_topic() -> None:
    """All messages are handled, those that failed come back once, and stdout is one JSON object."""
    flags = "--embedded --prefill 500 --handler-ms 0 --failure-rate 0.2 --base-delay 1 --json"

    done = run(SCRIPT, *flags.split())

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["SuccessfulMessages"] == 500
    assert result["redelivered"] == result["RetriedMessages"] == result["TotalMessages"] - 500
    assert (result["DeadMessages"], result["ErrorMessages"], result["WaitingRetries"]) == (0, 0, 0)
    assert result["records_per_s"] > 0
    assert result["peak_rss_mb"] > 0


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupt"), (signal.SIGTERM, "terminated")])
def test_consumer_benchmark_ends_gracefully_on_a_signal(
    run_process: Callable[..., Process], number: signal.Signals, word: str
) -> None:
    """A signal ends it before its duration, with the statistics and status 0."""
    process = run_process(SCRIPT, "--embedded", "--duration", "10m", "--no-worker")
    process.wait_for_output("Duration: 10m0s")

    process.signal(number)

    process.wait_for_output("✓ Consumer benchmark completed", timeout=40)
    assert f"\n📡 Received signal {word}, shutting down...\n" in process.output
    assert process.wait(timeout=20) == 0


def test_consumer_benchmark_takes_a_signal_from_its_first_line_on(run_process: Callable[..., Process]) -> None:
    """Before anything is started, a signal ends it in order too: no stack trace, status 0."""
    process = run_process(SCRIPT, "--embedded", "--duration", "10m")
    process.wait_for_output(HEADING)

    process.signal(signal.SIGINT)

    assert process.wait(timeout=30) == 0
    assert "Received signal interrupt" in process.output
    assert '"TotalMessages": 0' in process.output
    assert "Traceback" not in process.output


def test_consumer_benchmark_waits_for_nothing_after_a_second_signal(run_process: Callable[..., Process]) -> None:
    """A handler that takes a minute does not hold it."""
    process = run_process(SCRIPT, "--embedded", "--duration", "10m", "--handler-ms", "60000", "--rate", "100")
    process.wait_for_output("Duration: 10m0s")
    time.sleep(1)

    process.signal(signal.SIGTERM)
    process.wait_for_output("Received signal terminated")
    process.signal(signal.SIGTERM)

    assert process.wait(timeout=10) == 0
    assert "✓ Consumer benchmark completed" in process.output


def test_consumer_benchmark_says_which_redis_it_cannot_reach() -> None:
    """One line with the address on stderr, status 1."""
    address = f"localhost:{free_port()}"

    done = run(SCRIPT, "-redis", address, timeout=20)

    assert (done.returncode, done.stdout) == (1, HEADING)
    assert len(done.stderr.splitlines()) == 1
    assert f"cannot reach Redis at redis://{address}/" in done.stderr


def test_consumer_benchmark_says_which_kafka_it_cannot_reach(redis_server: ExternalRedis | RedisServer) -> None:
    """One line with the address on stderr, status 1."""
    address = f"localhost:{free_port()}"

    done = run(SCRIPT, "-kafka", address, "-redis", redis_server.address, timeout=30)

    assert (done.returncode, done.stdout) == (1, HEADING)
    assert len(done.stderr.splitlines()) == 1
    assert f"cannot reach Kafka at {address}" in done.stderr


@pytest.mark.parametrize(
    ("flag", "value", "limits"),
    [
        ("-failure-rate", "1.5", "from 0.0 to 1.0"),
        ("--failure-rate", "-0.1", "from 0.0 to 1.0"),
        ("--failure-rate", "nan", "from 0.0 to 1.0"),
        ("-duration", "5x", "60s, 2m or 1m30s, above 0"),
        ("-duration", "0s", "60s, 2m or 1m30s, above 0"),
        ("-kafka", "host:port", "host:port"),
        ("-redis", "localhost:0", "host:port"),
        ("-redis", "one:6379,two:6379", "one server"),
        ("-topic", "a/b", "a Kafka topic has"),
        ("-group", "", "the name of a consumer group"),
        ("-max-retries", "101", "from 0 to 100"),
        ("-base-delay", "0", "from 1 to 3600"),
        ("-handler-ms", "50-10", "from 0 to 60000"),
        ("-rate", "0", "above 0"),
        ("-concurrency", "0", "from 1 to 1000"),
        ("-prefill", "0", "from 1 to"),
    ],
)
def test_consumer_benchmark_refuses_a_bad_value_in_one_line(flag: str, value: str, limits: str) -> None:
    """The line names flag, value and limits; status 2."""
    done = run(SCRIPT, flag, value)

    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert flag in done.stderr
    assert repr(value) in done.stderr
    assert limits in done.stderr


def test_the_six_benchmarks_still_run() -> None:
    """`pytest benchmarks` runs each of them once."""
    done = run("-m", "pytest", "benchmarks", "--benchmark-disable", "-q", "-p", "no:cacheprovider")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 passed" in done.stdout


def test_scheduling_benchmark_prints_one_json_line() -> None:
    """It compares with plain Celery, with events and without."""
    done = run("-m", "benchmarks.scheduling", "--rounds", "1", "--calls", "20")

    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert {"schedule_retry / plain", "schedule_retry / plain, events"} <= set(json.loads(line)["ratio"])


SMALLEST = ("--size", "0.01", "--rounds", "1")

#: The keys of a JSON line that scripts may rely on.
KEYS = {
    *("name", "title", "value", "unit", "peer", "peer_value", "ratio", "goal", "limits", "met", "why"),
    *("against_value", "against_ratio", "figures", "size", "load_average"),
}


def test_delayed_delivery_benchmark_prints_a_json_line_for_each_row() -> None:
    """Every row runs in its smallest form; it has all keys, and a figure or the reason why there is none."""
    done = run(DELAYED_DELIVERY, *SMALLEST, "--json", timeout=400)

    assert done.returncode == 0, done.stderr
    found = {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert set(found) == set(GOALS)
    for row in found.values():
        assert set(row) == KEYS
        assert isinstance(row["met"], bool) if row["value"] is not None else row["why"].endswith("is not installed")
    kafka, lateness = found["kafka"], found["retry_lateness"]
    assert kafka["ratio"] == pytest.approx(kafka["value"] / kafka["peer_value"], rel=0.1)
    assert kafka["figures"]["delivered_twice"] == 0
    assert lateness["figures"]["earliest_record_ms"] >= 0
    assert found["idle"]["limits"][0] == {"figure": "more_than_stock", "direction": "<=", "bound": 1.0}


def test_delayed_delivery_benchmark_prints_a_table_of_80_columns_where_it_is_piped() -> None:
    """The table has the rows that were asked for, in its own order; progress goes to stderr."""
    rows = ["redis_enqueue", "schedule_retry_event", "redis_memory"]

    done = run(DELAYED_DELIVERY, *SMALLEST, "--only", ",".join(rows))

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    heading = next(line for line in lines if line.startswith("row"))
    assert heading.split() == ["row", "ours", "stock,", "peer", "ratio", "goal", "met"]
    printed = [line.partition(":")[0] for line in lines if line.partition(":")[0] in rows]
    assert printed[:3] == ["schedule_retry_event", "redis_memory", "redis_enqueue"]
    assert "bare ZADD" in done.stdout
    assert "Load average" in done.stdout
    assert "schedule_retry_event ..." in done.stderr


def test_delayed_delivery_benchmark_compares_with_another_checkout() -> None:
    """The other checkout runs the same rows with its own code; here it is this one."""
    done = run(DELAYED_DELIVERY, *SMALLEST, "--only", "redis_enqueue,redis_claim", "--json", "--against", str(ROOT))

    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["name"] for row in rows] == ["redis_enqueue", "redis_claim"]
    for row in rows:
        assert row["against_ratio"] == pytest.approx(row["value"] / row["against_value"], rel=0.05)


def test_delayed_delivery_benchmark_leaves_out_the_other_kafka_client() -> None:
    """The row of a client that was not asked for is there, without a figure, and says so; the table too."""
    done = run(DELAYED_DELIVERY, *SMALLEST, "--only", "kafka,kafka_confluent", "--kafka-client", "kafka-python")

    assert done.returncode == 0, done.stderr
    _, _, reasons = done.stdout.partition("Not measured:")
    assert reasons.split() == ["kafka_confluent", "--kafka-client", "says", "kafka-python"]


@pytest.mark.parametrize(
    ("figures", "met", "why"),
    [
        ({"value": 5.0, "figures": {"p99_ms": 40.0, "min_ms": -0.4}}, True, ""),
        ({"value": 5.0, "figures": {"p99_ms": 41.5, "min_ms": -0.4}}, False, "99 of 100: 41.5 ms"),
        ({"value": 5.0, "figures": {"p99_ms": 41.5, "min_ms": -2.0}}, False, "99 of 100: 41.5 ms; earliest: -2.0 ms"),
        ({"value": 6.0, "limit": "two cores", "figures": {"p99_ms": 9.0, "min_ms": 0.0}}, False, "two cores"),
        ({"value": 6.0, "load": 99.0, "figures": {"p99_ms": 9.0, "min_ms": 0.0}}, False, "the machine was busy"),
        ({"value": 5.0, "figures": {}}, False, "99 of 100: not measured"),
        ({"skipped": "not here"}, None, "not here"),
    ],
)
def test_a_row_says_whether_its_goal_is_met_and_why_not(figures: dict[str, Any], met: bool | None, why: str) -> None:
    """All limits of the goal count; a figure that is missing meets none."""
    row = Row(name="countdown_lateness", **figures)

    assert row.met is met
    assert row.why.startswith(why) if why else row.why == ""


def test_delayed_delivery_benchmark_refuses_a_row_that_it_does_not_have() -> None:
    """It names those that there are; status 2."""
    done = run(DELAYED_DELIVERY, "--only", "kafka,speed")

    assert (done.returncode, done.stdout) == (2, "")
    assert "'speed'" in done.stderr
    assert "retry_lateness" in done.stderr
