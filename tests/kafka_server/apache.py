"""A real Apache Kafka broker for the tests, from the jars of Maven Central.

    python -m tests.kafka_server.apache -- pytest -m kafka

This starts a broker, gives its address to the command as REBOUND_TEST_KAFKA, and ends with the command's status.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rebound_celery.embedded import HOST, Server, ServerError, free_port, kafka_answers

if TYPE_CHECKING:
    from collections.abc import Sequence

POM = Path(__file__).with_name("pom.xml")
VERSION = "4.1.0"
CLUSTER_ID = "cmVib3VuZC1jZWxlcnktMQ"

# A broker that lives for a minute spends most of it compiling itself: without the second compiler it starts in half the
# time. Take the last two away to measure throughput.
JAVA_OPTIONS = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

# The short session: a killed broker may register again only when its old session is over, by default after 9 s.
PROPERTIES = """
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
controller.quorum.voters=1@{host}:{controller_port}
log.dirs={data}
auto.create.topics.enable=true
num.partitions=4
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
log.segment.bytes=16777216
log.index.size.max.bytes=1048576
log.cleaner.dedupe.buffer.size=8388608
"""


class ApacheKafka(Server):
    """Broker and controller in one process. `kill()` and `restart()` keep the records, `stop()` does not."""

    name = "Apache Kafka"
    start_deadline_s = 120.0
    stop_deadline_s = 20.0

    def __init__(self, port: int | None = None) -> None:
        super().__init__(port)
        self._controller_port = free_port()

    def _command(self) -> Sequence[str]:
        java = [require("java", "default-jre-headless"), *JAVA_OPTIONS, "-cp", f"{fetch_jars()}/*"]
        data = Path(self.data_dir, "data")
        properties = Path(self.data_dir, "server.properties")
        properties.write_text(self._properties())
        if not (data / "meta.properties").exists():
            tool = [*java, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(properties)]
            tool += self._format_options()
            run(tool, "Apache Kafka's storage cannot be formatted")
        return [*java, "kafka.Kafka", str(properties)]

    def _properties(self) -> str:
        data = Path(self.data_dir, "data")
        return PROPERTIES.format(host=HOST, port=self.port, controller_port=self._controller_port, data=data)

    def _format_options(self) -> Sequence[str]:
        return ()

    def _answers(self) -> bool:
        return kafka_answers(self.port)


def fetch_jars() -> Path:
    """The directory of the broker's jars, fetched once with Maven (54 MB) and kept in the tests' cache directory."""
    root = os.environ.get("REBOUND_TEST_CACHE")
    cache = Path(root) if root else Path.home() / ".cache" / "rebound-celery-tests"
    # The digest fetches anew when the list of jars changes, also into a cache that an older checkout shares.
    target = cache / f"kafka-{VERSION}-{hashlib.sha256(POM.read_bytes()).hexdigest()[:8]}"
    if target.is_dir():
        return target
    maven = require("mvn", "maven")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as directory:
        # Maven writes its `target` beside the pom, and the checkout may be read-only.
        shutil.copy(POM, directory)
        jars = Path(directory, "jars")
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={jars}", "-DincludeScope=runtime"]
        run([maven, "-q", "-B", "-f", f"{directory}/{POM.name}", *goal], "Apache Kafka cannot be fetched")
        try:
            jars.rename(target)
        except OSError:
            if not target.is_dir():  # else another run was quicker, and its jars are as good
                raise
    return target


def require(program: str, package: str) -> str:
    """The path of a program, or an error that says how to install it."""
    path = shutil.which(program)
    if path is None:
        raise ServerError(f"`{program}` is needed to run Apache Kafka; on Debian: apt-get install {package}")
    return path


def run(command: Sequence[str], complaint: str) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise ServerError(f"{complaint} (status {done.returncode}):\n{done.stdout[-4000:]}")


def main(arguments: Sequence[str]) -> int:
    if len(arguments) < 2 or arguments[0] != "--":
        print("usage: python -m tests.kafka_server.apache -- command [argument ...]", file=sys.stderr)
        return 2
    try:
        with ApacheKafka() as kafka:
            print(f"Apache Kafka {VERSION} at {kafka.address}", file=sys.stderr, flush=True)
            environment = {**os.environ, "REBOUND_TEST_KAFKA": kafka.address}
            status = subprocess.run(arguments[1:], env=environment, check=False).returncode
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    # As a shell reports it: 128 and the signal's number.
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
