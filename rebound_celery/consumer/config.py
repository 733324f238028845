"""The configuration of a consumer. The constructor checks it, so a wrong value stops the start."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..config import Settings, parse_brokers, parse_path
from ..errors import InvalidSettingError
from ..message import Record
from ..message.address import check_topic
from ..policy import RetryPolicy
from ..policy.declared import with_imported_names
from .checks import check_count, check_options, check_seconds
from .failure_pause import FailurePauseOptions

Handler = Callable[[Record], object]

#: The values of `on_unreadable`.
ON_UNREADABLE = ("stop", "skip", "dead-letter")

#: The default of `dead_letter_window`.
_DEAD_LETTER_WINDOW = 100

#: The values of `after_dead_letter`.
AFTER_DEAD_LETTER = ("continue", "hold")


@dataclass(frozen=True, kw_only=True)
class ConsumerConfig:
    """The topics to consume, the handler, and the rules for records that fail.

    Attributes:
        group: the consumer group. Retries carry it, so that consumers of other groups skip them.
        topics: a name, several names, or a compiled pattern that a topic's *whole* name matches. A pattern never reads
            dead letter topics: those ending in the app's `rebound_dead_letter_suffix`, and `dead_letter_topic`.
        handler: a function that is called with each `Record`, from `concurrency` threads. In these threads the app is
            Celery's current app. It may be an `async def` function: its calls run on one event loop of the consumer,
            up to `concurrency` at once, so it must not block. A coroutine that another function returns is awaited
            there too; other return values are ignored. An `Exception` means that this attempt failed, and so does
            asyncio's `CancelledError`. Any other exception (for example SystemExit) stops the consumer, and the record
            is consumed again later. If a receiver is connected to one of Celery's task signals (task_prerun,
            task_postrun, task_success, task_failure, task_retry), the signals are sent for each record, as for a task
            with the handler's name.
        brokers: `host:port`, several with commas or as a sequence; None means the app's `rebound_kafka_brokers`.
        max_retries: the number of retries of a failed record, 0 to 100; None means what the app's policy for the
            record's topic says: `rebound_policies`, or else `rebound_max_retries`.
        base_delay: seconds before the first retry, 1 to 3600; None means the same.
        policy: a RetryPolicy in place of the app's policies, `max_retries` and `base_delay`.
        deserializer: a function that is called with the bytes of each value; the handler gets its result as
            `record.data`. If it raises, the record becomes a dead letter at once, with its raw bytes and the reason
            `undecodable`. It is not called for records without a value. "json" decodes JSON.
        dead_letter_limit: how many records in a row may become dead letters, from 1. The next one stops the consumer
            with DeadLetterLimitError, and is not committed. None means no limit.
        dead_letter_share: the largest share of dead letters, above 0 and below 1, among the last `dead_letter_window`
            records that succeeded or became dead letters. A dead letter that would exceed it stops the consumer in the
            same way. None means no limit.
        dead_letter_window: how many records `dead_letter_share` looks at, from 1. It needs that share.
        dead_letter_topic: the topic for dead letters. None means the topic where the record was first read, with the
            app's `rebound_dead_letter_suffix` added.
        retry_topic: the topic for retries. This consumer reads it too. None means the topic that the record came from.
        concurrency: the number of handler threads, from 1, and so of calls of the handler at once. Records with the
            same key in the same partition are handled one after the other, in order.
        max_in_flight: the largest number of records in memory, waiting or with a handler, over all partitions, from 1.
            At this number fetching pauses until half of them are done.
        commit_interval: the least time between two commits in seconds, above 0. A commit is sent when a record is done,
            this time has passed, and the last commit is answered. A commit covers records that are handled, or whose
            retries are stored. Records that are done but not committed are handled again after a crash.
        stop_timeout: the longest wait of a stop for running handlers and for Redis, in seconds; 0 does not wait.
            Records that are not finished then stay uncommitted and are consumed again.
        stats_interval: the time between two log lines with the statistics, in seconds; 0 logs none.
        failure_pause: whether the consumer stops fetching while most of its records fail with exceptions of the same
            class: True, or a mapping of the options of `FailurePauseOptions`. Records that are in memory already are
            handled. After a time one record is tried, and if that succeeds, the consumer goes on. None means never.
        on_unreadable: the rule for records that cannot be read, because their codec is not installed or their batch is
            damaged. "stop" (the default): their partition stops before them. This is logged, and reading is tried
            again after 5 s to 5 min. "dead-letter": the batch's bytes, in Kafka's own form, become one dead letter with
            the reason `unreadable`. "skip": the records are skipped. Other partitions go on in any case.
        ordering: "key" keeps the order of each key while one of its records is tried again: later records with the same
            key in the same partition wait behind it, in Redis, and other keys go on. None (the default): a record that
            is tried again comes after the records that followed it.
        after_dead_letter: with `ordering="key"`, what follows when a record becomes a dead letter. "continue" (the
            default): the next record of its key is handled. "hold": the key waits until
            `celery rebound chains --release` lets it go on.
        allow_auto_create: True allows topics that do not exist at the start. Kafka creates them, if it is configured
            so. With False, a missing topic is an error that names topics with similar names.
        health_file: a file that is rewritten every few seconds while the consumer works, for probes; None writes none.
        kafka_options: further options for kafka-python's KafkaConsumer, such as `security_protocol`, `sasl_mechanism`,
            `session_timeout_ms` or `auto_offset_reset`. The default of `auto_offset_reset` is "earliest" here, so that
            a new group skips nothing. With the app's own brokers, the security options in `rebound_kafka_options` hold
            here as well.

    Raises:
        InvalidSettingError: naming the field, its value, and what is allowed.
    """

    group: str
    topics: str | Sequence[str] | re.Pattern[str]
    handler: Handler
    brokers: str | Sequence[str] | None = None
    max_retries: int | None = None
    base_delay: float | None = None
    policy: RetryPolicy | None = None
    deserializer: Callable[[bytes], object] | Literal["json"] | None = None
    dead_letter_limit: int | None = None
    dead_letter_share: float | None = None
    dead_letter_window: int = _DEAD_LETTER_WINDOW
    dead_letter_topic: str | None = None
    retry_topic: str | None = None
    concurrency: int = 8
    max_in_flight: int = 1000
    commit_interval: float = 0.005
    stop_timeout: float = 30.0
    stats_interval: float = 30.0
    failure_pause: FailurePauseOptions | Mapping[str, Any] | bool | None = None
    on_unreadable: str = "stop"
    ordering: str | None = None
    after_dead_letter: str = "continue"
    allow_auto_create: bool = False
    health_file: str | os.PathLike[str] | None = None
    kafka_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.group, str) or not self.group:
            raise InvalidSettingError("group", self.group, "it is the name of a consumer group")
        self._check_topics()
        self._check_handler()
        if self.brokers is not None:
            object.__setattr__(self, "brokers", parse_brokers(self.brokers))
        self._check_policy()
        self._check_dead_letter_limits()
        check_count("concurrency", self.concurrency, 1)
        check_count("max_in_flight", self.max_in_flight, 1)
        check_seconds("commit_interval", self.commit_interval, zero=False)
        check_seconds("stop_timeout", self.stop_timeout, zero=True)
        check_seconds("stats_interval", self.stats_interval, zero=True)
        object.__setattr__(self, "failure_pause", FailurePauseOptions.read(self.failure_pause))
        if self.on_unreadable not in ON_UNREADABLE:
            raise InvalidSettingError("on_unreadable", self.on_unreadable, f"it is one of {', '.join(ON_UNREADABLE)}")
        self._check_ordering()
        if not isinstance(self.allow_auto_create, bool):
            raise InvalidSettingError("allow_auto_create", self.allow_auto_create, "it is True or False")
        if self.health_file is not None:
            object.__setattr__(self, "health_file", parse_path(self.health_file, "health_file"))
        object.__setattr__(self, "kafka_options", check_options(self.kafka_options))

    def _check_topics(self) -> None:
        topics = self.topics
        if isinstance(topics, re.Pattern):
            if not isinstance(topics.pattern, str):
                raise InvalidSettingError("topics", topics, "compile the pattern from text, not from bytes")
        else:
            names = (topics,) if isinstance(topics, str) else topics
            if not isinstance(names, Sequence) or isinstance(names, bytes) or not names:
                raise InvalidSettingError("topics", topics, "give a name, several names, or a compiled pattern")
            object.__setattr__(self, "topics", tuple(dict.fromkeys(check_topic(name, "topics") for name in names)))
        if self.retry_topic is not None:
            check_topic(self.retry_topic, "retry_topic")
        if self.dead_letter_topic is not None:
            check_topic(self.dead_letter_topic, "dead_letter_topic")
            if self.dead_letter_topic in self.topic_names():
                raise InvalidSettingError(
                    "dead_letter_topic",
                    self.dead_letter_topic,
                    "this consumer reads that topic, so a dead letter would be consumed again",
                )

    def _check_ordering(self) -> None:
        if self.ordering not in (None, "key"):
            raise InvalidSettingError("ordering", self.ordering, 'it is "key", or None')
        if self.after_dead_letter not in AFTER_DEAD_LETTER:
            allowed = ", ".join(AFTER_DEAD_LETTER)
            raise InvalidSettingError("after_dead_letter", self.after_dead_letter, f"it is one of {allowed}")
        if self.after_dead_letter == "hold" and self.ordering is None:
            raise InvalidSettingError("after_dead_letter", self.after_dead_letter, 'it needs ordering="key"')

    def _check_handler(self) -> None:
        if not callable(self.handler):
            raise InvalidSettingError("handler", self.handler, "it is a function that takes a Record")
        if inspect.isgeneratorfunction(self.handler) or inspect.isasyncgenfunction(self.handler):
            raise InvalidSettingError("handler", self.handler, "it is a generator, whose body would never run")
        try:
            signature = inspect.signature(self.handler)
        except (TypeError, ValueError):
            return  # A function in C may have no signature to look at.
        try:
            signature.bind(None)
        except TypeError:
            raise InvalidSettingError(
                "handler", self.handler, f"it is called with one argument, the record, and it takes {signature}"
            ) from None

    def _check_dead_letter_limits(self) -> None:
        if self.deserializer != "json" and self.deserializer is not None and not callable(self.deserializer):
            raise InvalidSettingError(
                "deserializer", self.deserializer, "it is a function that takes bytes, 'json', or None"
            )
        if self.dead_letter_limit is not None:
            check_count("dead_letter_limit", self.dead_letter_limit, 1)
        share: object = self.dead_letter_share
        if share is not None and (not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share < 1):
            raise InvalidSettingError("dead_letter_share", share, "it is a number above 0 and below 1")
        check_count("dead_letter_window", self.dead_letter_window, 1)
        if share is None and self.dead_letter_window != _DEAD_LETTER_WINDOW:
            raise InvalidSettingError("dead_letter_window", self.dead_letter_window, "it needs dead_letter_share")

    def _check_policy(self) -> None:
        if self.policy is not None:
            if not isinstance(self.policy, RetryPolicy):
                raise InvalidSettingError(
                    "policy", self.policy, "it is a RetryPolicy, as in policy=RetryPolicy(max_retries=5)"
                )
            if self.max_retries is not None or self.base_delay is not None:
                raise InvalidSettingError("policy", self.policy, "give it, or max_retries and base_delay, not both")
            object.__setattr__(self, "policy", with_imported_names(self.policy))
        if self.max_retries is not None:
            RetryPolicy(max_retries=self.max_retries)
        if self.base_delay is not None:
            RetryPolicy(base_delay=self.base_delay)

    def policy_for(self, settings: Settings, topic: str | None = None) -> RetryPolicy:
        """Return the policy for records of a topic. The app's policy for it replaces the fields that are None."""
        if self.policy is not None:
            return self.policy
        return settings.policies.find(topic=topic).with_limits(self.max_retries, self.base_delay)

    def policies(self, settings: Settings) -> Sequence[RetryPolicy]:
        """Return all policies that `policy_for` may return.

        Raises:
            InvalidSettingError: if one of the app's policies cannot have this consumer's `max_retries` or `base_delay`.
        """
        if self.policy is not None:
            return (self.policy,)
        return [policy.with_limits(self.max_retries, self.base_delay) for policy in settings.policies.all]

    def brokers_for(self, settings: Settings) -> tuple[str, ...]:
        """Return the brokers to read from."""
        return settings.kafka_brokers if self.brokers is None else tuple(self.brokers)

    def topic_pattern(self, suffix: str) -> str | None:
        """Return the regular expression to subscribe with, without dead letter topics; None if `topics` are names."""
        if not isinstance(self.topics, re.Pattern):
            return None
        # A part of a pattern may not set flags for the whole pattern. So the flags are set for this part alone.
        text = re.sub(r"^\(\?[aimsux]+\)", "", self.topics.pattern)
        letters = {re.IGNORECASE: "i", re.MULTILINE: "m", re.DOTALL: "s", re.VERBOSE: "x"}
        flags = "".join(letter for flag, letter in letters.items() if self.topics.flags & flag)
        # A verbose pattern may end with a comment. The line break ends the comment before the rest of the pattern.
        wanted = f"(?{flags}:{text}{chr(10) if 'x' in flags else ''})" if flags else f"(?:{text})"
        refused = rf"(?!.*{re.escape(suffix)}\Z)"
        if self.dead_letter_topic is not None:
            refused += rf"(?!{re.escape(self.dead_letter_topic)}\Z)"
        pattern = rf"{refused}{wanted}\Z"
        return pattern if self.retry_topic is None else rf"(?:{re.escape(self.retry_topic)}\Z|{pattern})"

    def topic_names(self) -> tuple[str, ...]:
        """Return all names to subscribe to. If `topics` is a pattern, this is only the retry topic, if there is one."""
        names = () if isinstance(self.topics, re.Pattern) else tuple(self.topics)
        return names if self.retry_topic is None or self.retry_topic in names else (*names, self.retry_topic)
