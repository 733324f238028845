"""One run, from the start to the statistics: messages at a rate for some time, or a number of messages in a topic."""

from __future__ import annotations

import argparse
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rebound_celery.consumer import Consumer, ConsumerConfig, ConsumerStats
from rebound_celery.embedded import EmbeddedKafka, EmbeddedRedis, create_topics

from .app import QUEUE, app
from .interrupts import Interrupted, Interrupts
from .load import PARTITIONS, Handler, Producer, in_own_process, poll_only, prefill
from .processes import ConsumerThread, Worker, peak_rss_mb, thread_seconds
from .report import Report

KAFKA_TIMEOUT_S = 8
WORKER_STOP_S = 20.0

#: The time between two checks of a condition, in seconds.
LOOK_S = 0.02

#: The time between two log lines about the draining, in seconds.
SAY_S = 10.0

logger = logging.getLogger(__name__)


class Benchmark:
    """One run. A signal ends the present step. After the statistics all processes are ended."""

    def __init__(self, options: argparse.Namespace, interrupts: Interrupts, report: Report) -> None:
        self._options = options
        self._interrupts = interrupts
        self._report = report
        self._kafka, self._redis = options.kafka, options.redis
        self._topic, self._group = options.topic, options.group
        self._handler = Handler(options.handler_ms, options.failure_rate, fail_once=options.prefill is not None)
        self._consumer: ConsumerThread | None = None
        self._worker: Worker | None = None
        #: The monotonic time at which the consumer was started, and the processor time until then: that of this process
        #: and that of its threads.
        self._began, self._cpu_before = 0.0, 0.0
        self._threads_before: Counter[str] = Counter()
        self._measured: dict[str, Any] = {}
        #: The number of signals that have ended a step. A further signal ends the stop of the consumer.
        self._signals_answered = 0
        #: Errors that did not end the run.
        self.complaints: list[str] = []

    def run(self) -> None:
        """Run, and print the results.

        Raises:
            ReboundError: if the servers cannot be started, or the consumer ended before it joined its group.
        """
        self._report.heading()
        with ExitStack() as stack:
            try:
                with self._interrupts.raising():
                    self._prepare(stack)
                    self._start()
            except Interrupted:
                self._answer_signal()
            else:
                self._report.started(self._topic, self._group)
                logger.info(self._settings())
                if self._options.prefill:
                    self._time_first_pass()
                else:
                    self._produce_for_a_while()
            self._stop_consumer()
            self._print_statistics()
        if not self.complaints:
            self._report.completed()

    # The start

    def _prepare(self, stack: ExitStack) -> None:
        options = self._options
        if options.embedded:
            kafka, redis = stack.enter_context(EmbeddedKafka()), stack.enter_context(EmbeddedRedis())
            self._kafka, self._redis = kafka.address, redis.address
            # With a consumer still connected, the broker would take five seconds to stop.
            stack.callback(lambda: kafka.kill() if self._interrupts.count > 1 else None)
        # It ends before the servers that it needs.
        stack.callback(self._stop_worker)
        app.conf.broker_url = f"redis://{self._redis}/0"
        app.conf.rebound_kafka_brokers = self._kafka
        app.rebound.check_redis()
        if options.prefill:
            self._topic, self._group = (f"{name}-{uuid.uuid4().hex[:8]}" for name in (self._topic, self._group))
        create_topics(self._kafka, {self._topic: PARTITIONS}, timeout_s=KAFKA_TIMEOUT_S)
        if options.prefill:
            in_own_process(prefill, self._kafka, self._topic, options.prefill)
            self._measured["bare_poll_per_s"] = in_own_process(poll_only, self._kafka, self._topic, options.prefill)

    def _start(self) -> None:
        """Start the consumer, and wait until it has joined its group. The time is measured from then on."""
        if not self._options.prefill:
            self._start_worker()
        self._began, self._cpu_before = time.monotonic(), time.process_time()
        self._threads_before = thread_seconds()
        self._consumer = ConsumerThread(Consumer(self._consumer_config(), app))
        while not self._consumer.has_joined:
            if not self._consumer.is_running:
                raise self._consumer.error or RuntimeError("the consumer ended before it joined its group")
            time.sleep(LOOK_S)
        self._measured["join_s"] = round(time.monotonic() - self._began, 2)

    def _consumer_config(self) -> ConsumerConfig:
        options = self._options
        return ConsumerConfig(
            brokers=self._kafka,
            group=self._group,
            topics=self._topic,
            handler=self._handler,
            max_retries=options.max_retries,
            base_delay=options.base_delay,
            concurrency=options.concurrency,
            ordering=options.ordering,
            # On the embedded broker a join takes half of this time. Other brokers accept the value as well.
            kafka_options={"session_timeout_ms": 6000, "heartbeat_interval_ms": 2000} if options.embedded else {},
        )

    def _start_worker(self) -> None:
        if not self._options.no_worker:
            self._worker = Worker(self._redis, self._kafka)

    def _settings(self) -> str:
        options = self._options
        low, high = options.handler_ms
        load = f"{options.prefill} messages at once" if options.prefill else f"{options.rate:g} messages/s"
        worker = "no worker of its own" if options.no_worker else "a worker of its own"
        return (
            f"Kafka {self._kafka}, Redis {self._redis}, {worker}; {load}, handler {low:g} to {high:g} ms in "
            f"{options.concurrency} threads, at most {options.max_retries} retries, the first after "
            f"{options.base_delay:g} s"
        )

    # The two kinds of run

    def _produce_for_a_while(self) -> None:
        producer = Producer(self._kafka, self._topic, self._options.rate)
        started = time.monotonic()
        producer.start()
        self._wait_for(lambda: producer.complaint is not None, self._options.duration)
        self._measured["duration_s"] = round(time.monotonic() - started, 1)
        self._say_why()
        producer.stop()
        if producer.complaint is not None:
            self.complaints.append(producer.complaint)
        elif self._options.embedded:
            self._drain(producer.produced)

    def _drain(self, produced: int) -> None:
        """Wait until each message has come to its end, because waiting messages are lost with the embedded servers."""
        started = time.monotonic()

        def is_done() -> bool:
            stats = self._stats()
            # Without a worker no retry is delivered, so a stored retry is the end.
            ended = stats.total - stats.errors if self._options.no_worker else stats.succeeded + stats.dead
            return ended >= produced

        while not self._wait_for(is_done, SAY_S):
            if self._is_over or (self._worker is not None and self._worker.complaint()):
                return
            ended = self._stats().succeeded + self._stats().dead
            logger.info("%d of %d messages have come to their end; Ctrl-C does not wait for the rest", ended, produced)
        self._measured["drain_s"] = round(time.monotonic() - started, 1)

    def _time_first_pass(self) -> None:
        count: int = self._options.prefill
        duration: float = self._options.duration
        if not self._wait_for(lambda: self._stats().total >= count, duration):
            self._say_why()
            return
        done = time.monotonic()
        started = self._handler.started or self._began
        first = self._stats()
        self._measured |= {
            "records": count,
            "records_per_s": round(count / (done - started)),
            "cpu_us_per_record": round(1e6 * (time.process_time() - self._cpu_before) / count),
            "cpu_us_by_thread": {
                name: round(1e6 * spent / count, 1) for name, spent in (thread_seconds() - self._threads_before).items()
            },
            "first_pass_s": round(done - started, 2),
            "start_s": round(started - self._began, 2),
            "first_pass_retried": first.retried,
            "peak_rss_mb": round(peak_rss_mb(), 1),
        }
        if not first.retried or self._options.no_worker:
            return
        self._start_worker()
        started = time.monotonic()

        def is_done() -> bool:
            return self._stats().succeeded + self._stats().dead >= count

        if not self._wait_for(is_done, duration):
            self._say_why()
        self._measured["redelivered"] = self._handler.redelivered
        self._measured["redelivery_s"] = round(time.monotonic() - started, 2)

    def _wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for the condition and return whether it came true. False also if the run ended first."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self._is_over or time.monotonic() > deadline:
                return False
            time.sleep(LOOK_S)
        return True

    @property
    def _is_over(self) -> bool:
        return self._interrupts.count > 0 or self._consumer is None or not self._consumer.is_running

    def _say_why(self) -> None:
        if self._interrupts.count:
            self._answer_signal()
        elif not self._is_over:
            self._report.elapsed()

    def _answer_signal(self) -> None:
        # Not the present count: a second signal may have come already, and it must not be lost.
        self._signals_answered = 1
        self._report.interrupted(self._interrupts.name)

    # The end

    def _stats(self) -> ConsumerStats:
        return ConsumerStats() if self._consumer is None else self._consumer.consumer.stats()

    def _stop_consumer(self) -> None:
        """Stop the consumer. It finishes the started records, unless a further signal comes."""
        if self._consumer is None:
            return
        self._consumer.stop()
        while self._consumer.is_running and self._interrupts.count <= self._signals_answered:
            time.sleep(LOOK_S)
        if self._consumer.error is not None:
            self.complaints.append(f"{type(self._consumer.error).__name__}: {self._consumer.error}")

    def _stop_worker(self) -> None:
        """Stop the worker, after the consumer has finished its records."""
        if self._worker is None:
            return
        if complaint := self._worker.complaint():
            self.complaints.append(complaint)
        self._worker.stop(WORKER_STOP_S if self._interrupts.count < 2 else 0)

    def _print_statistics(self) -> None:
        stats = self._stats()
        waiting = max(0, stats.retried - self._handler.redelivered)
        self._report.statistics(stats, waiting, self._measured)
        if waiting and self._options.embedded:
            logger.info("%d retries waited in the Redis of this program; they are lost with it", waiting)
        elif waiting:
            logger.info('%d retries still wait in the queue "%s" at Redis %s', waiting, QUEUE, self._redis)
        if stats.dead and not self._options.dead_messages:
            logger.info("%d messages are dead letters; --dead-messages counts them in the statistics", stats.dead)
