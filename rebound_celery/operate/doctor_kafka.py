"""The doctor's checks of Kafka: the consumers' options, the codecs, the topics, and the dead letter topics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..config import Settings
from ..errors import UnreachableError
from ..kafka_common import INSTALL_CODECS, missing_codecs, near_matches, shared_options
from ..message import dead_letter_topic
from .finding import NOTE, PROBLEM, WARNING, Finding

_BOOTSTRAP_TIMEOUT_MS = 4_500
_ADMIN_TIMEOUT_MS = 8_000

#: The options that are checked, in the order of the parameters of `_time_outs`.
_MILLISECONDS = (
    "session_timeout_ms",
    "heartbeat_interval_ms",
    "max_poll_interval_ms",
    "request_timeout_ms",
    "fetch_max_wait_ms",
    "connections_max_idle_ms",
)
#: How many heartbeats a member should send within its session, so that one lost heartbeat does not end it. Kafka's
#: documentation advises this.
_HEARTBEATS = 3
#: A rebalance waits up to 5 s for handlers and commits before the loop polls again. Otherwise handlers delay no poll.
_LEAST_POLL_INTERVAL_MS = 15_000
#: How long a topic should keep records: over a weekend. Dead letters should be kept until somebody reads them.
_LEAST_RETENTION_MS = 3 * 24 * 3_600_000
_LEAST_LETTER_RETENTION_MS = 7 * 24 * 3_600_000

_AUTO_CREATE = "auto.create.topics.enable"
_SESSION_RANGE = ("group.min.session.timeout.ms", "group.max.session.timeout.ms")
_TOPIC_CONFIGS = ("retention.ms", "min.insync.replicas", "cleanup.policy")


def check_options(given: Mapping[str, Any]) -> Iterator[Finding]:
    """Check the options of consumers. This connects to nothing."""
    from kafka import KafkaConsumer

    defaults = {**KafkaConsumer.DEFAULT_CONFIG, "auto_offset_reset": "earliest"}
    options = {**defaults, **given}
    wrong = [f"there is no option {name!r} of kafka-python's KafkaConsumer" for name in given if name not in defaults]
    wrong += [
        f"{name}={options[name]!r} is no number of milliseconds above 0"
        for name in _MILLISECONDS
        if not isinstance(options[name], int | float) or isinstance(options[name], bool) or options[name] <= 0
    ]
    if wrong:
        yield Finding(PROBLEM, "consumers", f"{'; '.join(wrong)}: no consumer starts with that; correct it")
        return
    yield from _time_outs(*(options[name] for name in _MILLISECONDS))
    if options["auto_offset_reset"] == "latest":
        yield Finding(
            WARNING,
            "consumers",
            "auto_offset_reset=latest: a new group, and a group whose offsets have expired, skips all records that are "
            "there; leave it at earliest",
        )


def check_codecs() -> Iterator[Finding]:
    """Check whether records in every codec can be read here."""
    if missing := missing_codecs():
        yield Finding(
            NOTE,
            "codecs",
            f"records that a producer compresses with {', '.join(missing)} cannot be read here: their partition stops, "
            f"unless the consumers' on_unreadable says otherwise; if there are such producers: {INSTALL_CODECS}",
        )


def _time_outs(
    session: float, heartbeat: float, poll: float, request: float, fetch: float, idle: float
) -> Iterator[Finding]:
    if heartbeat >= session:
        yield Finding(
            PROBLEM,
            "consumers",
            f"heartbeat_interval_ms={heartbeat} is not below session_timeout_ms={session}: Kafka ends the session of "
            f"every consumer between two heartbeats; set it to {session // _HEARTBEATS} or less",
        )
    elif heartbeat * _HEARTBEATS > session:
        yield Finding(
            WARNING,
            "consumers",
            f"heartbeat_interval_ms={heartbeat} is more than a third of session_timeout_ms={session}: one lost "
            f"heartbeat can cost a consumer its partitions; set it to {session // _HEARTBEATS} or less",
        )
    if poll < session:
        yield Finding(
            PROBLEM,
            "consumers",
            f"max_poll_interval_ms={poll} is below session_timeout_ms={session}; set it to {session} or more",
        )
    elif poll < _LEAST_POLL_INTERVAL_MS:
        yield Finding(
            WARNING,
            "consumers",
            f"max_poll_interval_ms={poll}: a rebalance that waits for handlers may take longer, and the consumer then "
            f"loses its partitions; set it to {_LEAST_POLL_INTERVAL_MS} or more",
        )
    if not fetch < request < idle:
        yield Finding(
            PROBLEM,
            "consumers",
            f"request_timeout_ms={request} must lie between fetch_max_wait_ms={fetch} and "
            f"connections_max_idle_ms={idle}, or no consumer starts",
        )


def check_kafka(settings: Settings, topics: Sequence[str], options: Mapping[str, Any]) -> Iterator[Finding]:
    """Check the app's Kafka.

    Args:
        settings: the app's settings, with its brokers.
        topics: the topics that are consumed. Their dead letter topics are checked too.
        options: the options of the consumers, which the broker may refuse.
    """
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    from ..compat.kafka_python import WatchedClient

    brokers = ",".join(settings.kafka_brokers)
    client = WatchedClient()
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=list(settings.kafka_brokers),
            bootstrap_timeout_ms=_BOOTSTRAP_TIMEOUT_MS,
            request_timeout_ms=_ADMIN_TIMEOUT_MS,
            **shared_options(settings.kafka_options),
            **settings.kafka_connection(),
            kafka_client=client,
        )
    except KafkaError as error:
        reason = client.reason(error)
        client.close()
        raise UnreachableError("Kafka", brokers, reason) from error
    try:
        present = set(admin.list_topics())
        broker = _broker_configs(admin)
        letters = {dead_letter_topic(topic, settings.dead_letter_suffix).topic for topic in topics}
        yield from _session(broker, options)
        yield from _missing(topics, letters, present, broker)
        yield from _durability(admin, sorted({*topics, *letters} & present))
        yield from _retention(admin, sorted(set(topics) & present), sorted(letters & present))
    finally:
        admin.close()


def _session(broker: Mapping[str, str], options: Mapping[str, Any]) -> Iterator[Finding]:
    from kafka import KafkaConsumer

    session = options.get("session_timeout_ms", KafkaConsumer.DEFAULT_CONFIG["session_timeout_ms"])
    least, most = (broker.get(name) for name in _SESSION_RANGE)
    if least is None or most is None or not isinstance(session, int | float):
        return
    if not int(least) <= session <= int(most):
        yield _problem(
            f"session_timeout_ms={session} is not within what the broker allows, {least} to {most} "
            f"({' and '.join(_SESSION_RANGE)}): it refuses every consumer; choose one that is"
        )


def _missing(
    topics: Sequence[str], letters: set[str], present: set[str], broker: Mapping[str, str]
) -> Iterator[Finding]:
    for topic in topics:
        if topic not in present:
            near = near_matches(topic, present)
            yield _warning(f"there is no topic {topic}" + (f"; there is {' and '.join(near)}" if near else ""))
    missing = sorted(letters - present)
    creates = broker.get(_AUTO_CREATE)
    if not missing or (creates is not None and creates.lower() != "false"):
        return
    yield Finding(
        WARNING if creates is None else PROBLEM,
        "kafka",
        f"there is no {', '.join(missing)}, and "
        + (
            "the broker does not say whether it creates one when it is needed"
            if creates is None
            else "the broker creates none by itself: dead letters would wait in Redis"
        )
        + "; create it",
    )


def _durability(admin: Any, topics: Sequence[str]) -> Iterator[Finding]:
    """Check whether records survive the loss of a broker."""
    single, least_of = [], _topic_configs(admin, topics)
    for found in admin.describe_topics(list(topics)) if topics else ():
        name = found["name"]
        copies = min((len(partition["replica_nodes"]) for partition in found["partitions"]), default=0)
        least = least_of.get(name, {}).get("min.insync.replicas")
        if copies == 1:
            single.append(name)
        elif least == "1":
            yield _warning(
                f"{name} has min.insync.replicas=1: a record counts as confirmed when one broker has it; set it to 2"
            )
        elif least is not None and copies and int(least) >= copies:
            yield _warning(
                f"{name} has min.insync.replicas={least} and {copies} replicas: when one broker is away nothing can be "
                "written to it; have one replica more"
            )
    if single:
        yield _warning(
            f"there is only one copy of {', '.join(single)}: it is lost with the disk of its broker; "
            "have 3 replicas, and min.insync.replicas=2"
        )


def _retention(admin: Any, topics: Sequence[str], letters: Sequence[str]) -> Iterator[Finding]:
    """Check whether the topics keep their records long enough."""
    configs = _topic_configs(admin, [*topics, *letters])
    for least_ms, names, whose in (
        (_LEAST_RETENTION_MS, topics, "an outage of the consumers that is longer loses records"),
        (_LEAST_LETTER_RETENTION_MS, letters, "dead letters are gone after that"),
    ):
        for name in names:
            config = configs.get(name, {})
            kept_ms = int(config.get("retention.ms", -1))
            if "compact" in config.get("cleanup.policy", ""):
                yield _warning(
                    f"{name} is compacted: it keeps only the last record of each key, and a retry or a dead letter may "
                    "follow a newer record of its key; set cleanup.policy=delete, or consume with retry_topic"
                )
            elif 0 <= kept_ms < least_ms:
                yield _warning(
                    f"{name} keeps records for {kept_ms / 3_600_000:g} h (retention.ms={kept_ms}): {whose}; "
                    f"set it to {least_ms} or more"
                )


def _broker_configs(admin: Any) -> dict[str, str]:
    """Return the configuration of one broker, as far as the broker tells it."""
    from kafka.admin import ConfigResourceType
    from kafka.errors import KafkaError

    try:
        node = next(iter(admin.describe_cluster()["brokers"]))["broker_id"]
    except KafkaError:
        return {}
    found = _describe(admin, ConfigResourceType.BROKER, [str(node)], (_AUTO_CREATE, *_SESSION_RANGE))
    return found.get(str(node), {})


def _topic_configs(admin: Any, topics: Sequence[str]) -> dict[str, dict[str, str]]:
    from kafka.admin import ConfigResourceType

    return _describe(admin, ConfigResourceType.TOPIC, topics, _TOPIC_CONFIGS)


def _describe(admin: Any, kind: Any, resources: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the values of these configurations by resource and name, as far as the broker tells them."""
    from kafka.admin import ConfigFilterType, ConfigResource
    from kafka.errors import KafkaError

    if not resources:
        return {}
    try:
        answer = admin.describe_configs(
            [ConfigResource(kind, resource, list(names)) for resource in resources], config_filter=ConfigFilterType.ALL
        )
    except KafkaError:
        return {}
    return {
        resource: {name: str(configs[name]["value"]) for name in names if name in configs}
        for by_resource in answer.values()
        for resource, configs in by_resource.items()
    }


def _problem(text: str) -> Finding:
    return Finding(PROBLEM, "kafka", text)


def _warning(text: str) -> Finding:
    return Finding(WARNING, "kafka", text)
