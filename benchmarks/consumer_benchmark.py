"""A consumer under load: it produces its own messages, fails some of them on purpose, and says what became of them.

    python benchmarks/consumer_benchmark.py --embedded --duration 30s
    python benchmarks/consumer_benchmark.py -kafka localhost:9092 -redis localhost:6379 -failure-rate 0.3 -duration 60s
    python benchmarks/consumer_benchmark.py --embedded --prefill 50000 --handler-ms 0 --failure-rate 0.2

The first two produce while they consume, and stop at the end of the duration or on SIGINT or SIGTERM. The third
measures speed: it fills a new topic first, then times one consumer process on it; there each message fails at most
once, and a Celery worker is started only when the first pass is over, so that it takes no time from the consumer.

Failed messages become Celery tasks in the queue "consumer-benchmark". This program starts a Celery worker process that
redelivers them, unless --no-worker says that you run one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import random
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from celery import Celery

from rebound_celery import InvalidSettingError, Rebound, ReboundError, Record, RetryPolicy
from rebound_celery.config import parse_brokers
from rebound_celery.consumer import Consumer, ConsumerConfig, ConsumerStats
from rebound_celery.demo.child import Child
from rebound_celery.embedded import EmbeddedKafka, EmbeddedRedis, create_topics
from rebound_celery.message.address import check_topic

QUEUE = "consumer-benchmark"
PARTITIONS = 4
KAFKA_TIMEOUT_S = 8

#: The worker process imports this module and finds the app here; its addresses come from the environment.
app = Celery(QUEUE, set_as_current=False)
app.conf.broker_connection_retry_on_startup = True
Rebound(app, queue=QUEUE)


class SimulatedError(Exception):
    """What the handler fails with, by the failure rate."""


# The command line


def checked(convert: Callable[[str], Any], rule: str) -> Callable[[str], Any]:
    """An argparse type whose complaint names the value and what is allowed."""

    def check(text: str) -> Any:
        try:
            return convert(text)
        except InvalidSettingError as error:
            raise argparse.ArgumentTypeError(f"{text!r} cannot be used: {error.allowed}") from None
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} cannot be used: {rule}") from None

    return check


def number(low: float, high: float, *, above: bool = False, kind: Callable[[str], Any] = float) -> Callable[[str], Any]:
    what = "a whole number" if kind is int else "a number"
    limits = f"above {low} and at most {high}" if above else f"from {low} to {high}"

    def convert(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high or (above and value == low):
            raise ValueError(text)
        return value

    return checked(convert, f"it is {what} {limits}")


def parse_duration(text: str) -> float:
    """Seconds of 60s, 2m, 1m30s, 500ms, 1.5h; a bare number is seconds."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "": 1.0}
    form = r"(\d+(?:\.\d+)?)(ms|h|m|s)"
    if not re.fullmatch(rf"(?:{form})+|\d+(?:\.\d+)?", text):
        raise ValueError(text)
    parts = re.findall(form, text) or [(text, "")]
    seconds = sum(float(count) * units[unit] for count, unit in parts)
    if not 0 < seconds <= 7 * 86_400:
        raise ValueError(text)
    return seconds


def parse_range(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    pair = (float(low), float(high or low))
    if not 0 <= pair[0] <= pair[1] <= 60_000:
        raise ValueError(text)
    return pair


def parse_host(text: str) -> str:
    (address,) = parse_brokers([text.removeprefix("redis://").removesuffix("/0")])
    return address if ":" in text.removeprefix("redis://") else f"{text}:6379"


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def make_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )

    def flag(name: str, default: Any = None, convert: Any = None, text: str = "", **options: Any) -> None:
        if convert is not None:
            options |= {"type": convert, "default": default, "metavar": options.get("metavar", "X")}
            text += f" (default: {default})" if default is not None else ""
        parser.add_argument(f"--{name}", f"-{name}", help=text, **options)

    brokers = checked(lambda text: ",".join(parse_brokers(text)), "")
    flag("kafka", "localhost:9092", brokers, "Kafka brokers, several with commas", metavar="HOST:PORT")
    flag("redis", "localhost:6379", checked(parse_host, ""), "the Redis server", metavar="HOST:PORT")
    flag("topic", "consumer-benchmark", checked(check_topic, ""), "the topic to produce to and consume")
    flag("group", "benchmark-consumer-group", str, "the consumer group")
    flag("failure-rate", 0.3, number(0.0, 1.0), "share of handler calls that fail, 0.0 to 1.0")
    rule = "give a duration such as 60s, 2m or 1m30s, above 0 and at most 168h"
    flag("duration", "60s", checked(parse_duration, rule), "how long to produce and consume: 60s, 2m, 1m30s")
    flag("rate", 10.0, number(0, 1_000_000, above=True), "messages produced a second")
    rule = "give milliseconds from 0 to 60000, one number or two as in 10-50"
    flag("handler-ms", "10-50", checked(parse_range, rule), "how long the handler sleeps: 10-50, 20, or 0")
    retries = checked(lambda text: RetryPolicy(max_retries=int(text)).max_retries, "it is a whole number")
    flag("max-retries", 3, retries, "retries before a message is a dead letter, 0 to 100")
    delay = checked(lambda text: RetryPolicy(base_delay=float(text)).base_delay, "it is a number of seconds")
    flag("base-delay", 5.0, delay, "seconds before the first retry, 1 to 3600; doubles with each")
    flag("concurrency", 8, number(1, 1000, kind=int), "handler threads")
    flag(
        "prefill",
        None,
        number(1, 100_000_000, kind=int),
        "measure speed on a new topic with so many messages",
        metavar="N",
    )
    flag(
        "embedded",
        text="start a Kafka and a Redis of its own; ignores --kafka and --redis",
        action="store_true",
    )
    flag("no-worker", text="start no Celery worker: one of yours redelivers what fails", action="store_true")
    flag("json", text="print one JSON object and nothing else", action="store_true")
    return parser


# The parts


class Handler:
    """Sleeps, and fails by the rate."""

    def __init__(self, handler_ms: tuple[float, float], failure_rate: float, *, fail_once: bool) -> None:
        self._low, self._high = (milliseconds / 1000 for milliseconds in handler_ms)
        self._failure_rate = failure_rate
        self._fail_once = fail_once
        self._lock = threading.Lock()
        self.redelivered = 0
        self.started: float | None = None

    def __call__(self, record: Record) -> None:
        if self.started is None:
            self.started = time.monotonic()
        if self._high > 0:
            time.sleep(random.uniform(self._low, self._high))
        if record.attempt > 1:
            with self._lock:
                self.redelivered += 1
            if self._fail_once:
                return
        if random.random() < self._failure_rate:
            raise SimulatedError("simulated failure")


def make_message(n: int) -> dict[str, bytes]:
    content = {
        "message_id": f"msg-{n}-{uuid.uuid4().hex[:8]}",
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "data": f"benchmark message {n}",
        "priority": n % 3,
    }
    return {"key": f"key-{n}".encode(), "value": json.dumps(content).encode()}


def produce(brokers: str, topic: str, rate: float, stop: threading.Event) -> None:
    """Produce at `rate` messages a second until told to stop."""
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=brokers.split(","), linger_ms=5)
    started = time.monotonic()
    n = 0
    while not stop.is_set():
        while n < (time.monotonic() - started) * rate and not stop.is_set():
            n += 1
            producer.send(topic, **make_message(n))
        stop.wait(min(1 / rate, 0.1))
    producer.close(timeout=10)


def prefill(brokers: str, topic: str, count: int) -> None:
    """Produce `count` messages and wait until all are confirmed."""
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=brokers.split(","), linger_ms=20, batch_size=128 * 1024)
    sent = [producer.send(topic, **make_message(n)) for n in range(1, count + 1)]
    producer.flush(timeout=120)
    for future in sent:
        future.get(timeout=0)
    producer.close()


def poll_only(brokers: str, topic: str, count: int) -> int:
    """Records a second of kafka-python alone, which only reads them: what a consumer here can reach at most."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=brokers.split(","), metrics_enabled=False)
    consumer.assign([TopicPartition(topic, partition) for partition in range(PARTITIONS)])
    consumer.seek_to_beginning()
    left, started = count, None
    while left > 0:
        for batch in consumer.poll(timeout_ms=500).values():
            started = started or time.monotonic()
            left -= len(batch)
    rate = count / (time.monotonic() - (started or 0))
    consumer.close()
    return round(rate)


def in_own_process(function: Callable[..., Any], *arguments: object) -> Any:
    """So that its memory is not counted as the consumer's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


class Worker:
    """The Celery worker process that redelivers."""

    def __init__(self, redis: str, brokers: str) -> None:
        celery = [sys.executable, "-m", "celery", "--workdir", str(Path(__file__).parent), "-A", Path(__file__).stem]
        self._child = Child(
            "the Celery worker",
            [*celery, "worker", "-Q", QUEUE, "-P", "threads", "-c", "8", "-l", "WARNING"],
            {"CELERY_BROKER_URL": f"redis://{redis}/0", "REBOUND_KAFKA_BROKERS": brokers},
        )

    def complaint(self) -> str | None:
        return None if self._child.is_running else self._child.how_it_ended()

    def stop(self) -> None:
        self._child.stop(20.0)


def peak_rss_mb() -> float:
    """The most memory that this process has had, in MB."""
    with contextlib.suppress(OSError):
        # ru_maxrss would also hold what the parent had at the fork.
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


# The two runs


class Benchmark:
    def __init__(self, options: argparse.Namespace, kafka: str, redis: str) -> None:
        self.options, self.kafka, self.redis = options, kafka, redis
        self.ended = threading.Event()
        self.result: dict[str, Any] = {}
        self.complaints: list[str] = []
        self.topic, self.group = options.topic, options.group
        app.conf.broker_url = f"redis://{redis}/0"
        app.conf.rebound_kafka_brokers = kafka
        app.rebound.check_redis()
        if options.prefill:
            self.topic, self.group = (f"{name}-{uuid.uuid4().hex[:8]}" for name in (self.topic, self.group))
        create_topics(kafka, {self.topic: PARTITIONS}, timeout_s=KAFKA_TIMEOUT_S)
        if options.prefill:
            in_own_process(prefill, kafka, self.topic, options.prefill)
            self.result["bare_poll_per_s"] = in_own_process(poll_only, kafka, self.topic, options.prefill)
        self.handler = Handler(options.handler_ms, options.failure_rate, fail_once=options.prefill is not None)
        self.consumer = Consumer(
            ConsumerConfig(
                brokers=kafka,
                group=self.group,
                topics=self.topic,
                handler=self.handler,
                max_retries=options.max_retries,
                base_delay=options.base_delay,
                concurrency=options.concurrency,
                # The embedded broker takes half of it to let a member in; other brokers allow it as well.
                kafka_options={"session_timeout_ms": 6000, "heartbeat_interval_ms": 2000} if options.embedded else {},
            ),
            app,
        )

    def run(self) -> ConsumerStats:
        """Consume here, in the main thread, which is where signals stop it; what directs it has its own thread."""
        director = threading.Thread(target=self._direct, name="director")
        director.start()
        try:
            self.consumer.run(handle_signals=True)
        finally:
            self.ended.set()
            director.join()
        return self.consumer.stats()

    def _direct(self) -> None:
        try:
            if self.options.prefill:
                self._time_first_pass()
            else:
                self._produce_for_a_while()
        except Exception as error:
            self.complaints.append(f"{type(error).__name__}: {error}")
        finally:
            self.consumer.stop()

    @contextlib.contextmanager
    def _worker(self) -> Iterator[None]:
        if self.options.no_worker:
            yield
            return
        worker = Worker(self.redis, self.kafka)
        try:
            yield
            if complaint := worker.complaint():
                self.complaints.append(complaint)
        finally:
            worker.stop()

    def _produce_for_a_while(self) -> None:
        stop = threading.Event()
        producer = threading.Thread(target=produce, args=(self.kafka, self.topic, self.options.rate, stop))
        with self._worker():
            started = time.monotonic()
            producer.start()
            self.ended.wait(self.options.duration)
            stop.set()
            producer.join()
            self.consumer.stop()
            # The worker is stopped last: it warns of nothing while the consumer finishes what it has in flight.
            self.ended.wait()
            self.result["duration_s"] = round(time.monotonic() - started, 1)

    def _time_first_pass(self) -> None:
        count, begun, cpu = self.options.prefill, time.monotonic(), time.process_time()
        if not self._wait_for(lambda stats: stats.total >= count):
            return
        done = time.monotonic()
        started = self.handler.started or begun
        first = self.consumer.stats()
        self.result |= {
            "records": count,
            "records_per_s": round(count / (done - started)),
            "cpu_us_per_record": round(1e6 * (time.process_time() - cpu) / count),
            "first_pass_s": round(done - started, 2),
            "start_s": round(started - begun, 2),
            "first_pass_retried": first.retried,
            "peak_rss_mb": round(peak_rss_mb(), 1),
        }
        if first.retried and not self.options.no_worker:
            with self._worker():
                started = time.monotonic()
                self._wait_for(lambda stats: stats.succeeded + stats.dead >= count)
                self.result["redelivered"] = self.handler.redelivered
                self.result["redelivery_s"] = round(time.monotonic() - started, 2)

    def _wait_for(self, condition: Callable[[ConsumerStats], bool]) -> bool:
        """Wait until the statistics say so; False if the consumer has ended, or the duration is over, before."""
        deadline = time.monotonic() + self.options.duration
        while not condition(self.consumer.stats()):
            if time.monotonic() > deadline or self.ended.wait(0.02):
                return False
        return True


def print_heading(options: argparse.Namespace, benchmark: Benchmark) -> None:
    low, high = options.handler_ms
    load = f"{options.prefill} messages at once" if options.prefill else f"{options.rate:g} messages/s"
    lines = {
        "Kafka": benchmark.kafka,
        "Redis": benchmark.redis,
        "Topic": benchmark.topic,
        "Group": benchmark.group,
        "Failure rate": f"{100 * options.failure_rate:.1f} %" + (" of the messages, once" if options.prefill else ""),
        "Duration": f"{options.duration:g} s" + (" at most" if options.prefill else ""),
        "Load": load,
        "Handler": f"{low:g} to {high:g} ms, {options.concurrency} threads",
        "Retries": f"at most {options.max_retries}, first after {options.base_delay:g} s",
        "Worker": "none of its own" if options.no_worker else "started by this program",
    }
    print("Consumer benchmark")
    for name, value in lines.items():
        print(f"  {name + ':':<14}{value}")
    print("Ctrl-C stops it gracefully.\n", flush=True)


def print_result(benchmark: Benchmark, stats: ConsumerStats) -> None:
    counts = {name: value for name, value in stats.to_dict().items() if name.endswith("Messages")}
    waiting = max(0, stats.retried - benchmark.handler.redelivered)
    if benchmark.options.json:
        print(json.dumps({**stats.to_dict(), "WaitingRetries": waiting, **benchmark.result}))
        return
    print(json.dumps(counts, indent=2))
    print(f"Success rate: {stats.success_rate:.2f}%")
    print(f"Retry rate: {stats.retry_rate:.2f}%")
    if "records_per_s" in benchmark.result:
        print(
            "First pass: {records} records in {first_pass_s} s, {records_per_s} records/s; {first_pass_retried} failed "
            "and were stored; {cpu_us_per_record} us of processor time each; peak memory of the consumer process "
            "{peak_rss_mb} MB. kafka-python alone reads {bare_poll_per_s} records/s here.".format(**benchmark.result)
        )
    if "redelivered" in benchmark.result:
        print("Then {redelivered} retries came back in {redelivery_s} s.".format(**benchmark.result))
    if waiting:
        print(f'{waiting} retries still wait in the queue "{QUEUE}" at Redis {benchmark.redis}.')


@contextlib.contextmanager
def servers(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    if not options.embedded:
        yield options.kafka, options.redis
        return
    with EmbeddedKafka() as kafka, EmbeddedRedis() as redis:
        yield kafka.address, redis.address


def main(argv: list[str] | None = None) -> int:
    parser = make_parser()
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    # Failing is what the handler is for, and what cannot be reached is said in one line below.
    logging.getLogger("rebound_celery.consumer.failure_handler").setLevel(logging.ERROR)
    logging.getLogger("rebound_celery.consumer").setLevel(logging.INFO if not options.json else logging.WARNING)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        with servers(options) as (kafka, redis):
            benchmark = Benchmark(options, kafka, redis)
            if not options.json:
                print_heading(options, benchmark)
            stats = benchmark.run()
            print_result(benchmark, stats)
    except ReboundError as error:
        print(f"{parser.prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    for complaint in benchmark.complaints:
        print(f"{parser.prog}: {complaint}", file=sys.stderr)
    return 1 if benchmark.complaints else 0


if __name__ == "__main__":
    # Only what this program is told decides, also in the worker that it starts.
    for variable in [name for name in os.environ if name.startswith(("REBOUND_", "CELERY_"))]:
        del os.environ[variable]
    sys.exit(main())
