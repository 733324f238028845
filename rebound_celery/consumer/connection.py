"""Makes kafka-python's KafkaConsumer for a configuration."""

from __future__ import annotations

import logging
from typing import Any

from kafka import KafkaConsumer, errors
from kafka.errors import KafkaError, NodeNotReadyError, RetriableError

from ..compat.kafka_python import WatchedClient, end_when_fenced, finish_joins, keep_poll_waiting, obey_auto_create
from ..compat.kafka_records import read_all_records
from ..config import Settings
from ..errors import UnreachableError
from ..kafka_common import shared_options
from .config import ConsumerConfig
from .option_values import check_option_values

#: How long the first connection may take, in milliseconds.
BOOTSTRAP_TIMEOUT_MS = 8_000

#: Errors that waiting does not cure.
FATAL = (
    errors.AuthorizationError,
    errors.SaslAuthenticationFailedError,
    errors.FencedInstanceIdError,
    errors.InvalidGroupIdError,
    errors.InvalidTopicError,
    errors.InconsistentGroupProtocolError,
    errors.InvalidSessionTimeoutError,
    errors.UnsupportedVersionError,
    errors.KafkaConfigurationError,
    # Without a policy for `auto_offset_reset`, a consumer whose offset is gone cannot go on, as one without an offset.
    errors.NoOffsetForPartitionError,
    errors.OffsetOutOfRangeError,
    errors.LogTruncationError,
    errors.IllegalStateError,
)

logger = logging.getLogger(__name__)


def kafka_options(config: ConsumerConfig, settings: Settings) -> dict[str, Any]:
    """Return the options for KafkaConsumer: rebound's defaults, the app's security options, and the user's options.

    Raises:
        InvalidSettingError: if one of the app's security options cannot be used.
    """
    brokers = config.brokers_for(settings)
    options: dict[str, Any] = {
        "client_id": "rebound-consumer",
        # A new group must not skip the existing records.
        "auto_offset_reset": "earliest",
        "bootstrap_timeout_ms": BOOTSTRAP_TIMEOUT_MS,
        # kafka-python's own metrics cost about 10 % of the throughput, and nothing reads them here.
        "metrics_enabled": False,
        # kafka-python keeps the fetched records in memory. Its default limit is 50 MB.
        "fetch_max_bytes": 8 * 1024 * 1024,
        # After a long outage, the pause before the next try to connect would be 30 s by default.
        "reconnect_backoff_max_ms": 2_000,
    }
    if set(brokers) == set(settings.kafka_brokers):
        shared = shared_options(settings.kafka_options)
        check_option_values(shared, "rebound_kafka_options")
        options |= shared
    options |= settings.kafka_connection(brokers)
    options |= config.kafka_options
    options |= {
        "bootstrap_servers": list(brokers),
        "group_id": config.group,
        "enable_auto_commit": False,
        "allow_auto_create_topics": config.allow_auto_create,
    }
    return options


def connect(config: ConsumerConfig, settings: Settings) -> KafkaConsumer:
    """Return a KafkaConsumer that has reached a broker. It has not joined the group.

    Raises:
        UnreachableError: naming the brokers that were tried, after the option `bootstrap_timeout_ms` (8 s).
    """
    options = kafka_options(config, settings)
    client = WatchedClient()
    try:
        consumer = KafkaConsumer(**options, kafka_client=client)
    except BaseException as error:
        reason = client.reason(error)
        client.close()
        if isinstance(error, RetriableError | NodeNotReadyError | OSError):
            raise UnreachableError("Kafka", ",".join(options["bootstrap_servers"]), reason) from error
        if isinstance(error, KafkaError):
            extra: dict[str, object] = {"event": "options_refused"}
            settings.redact.log(
                logger, "KafkaConsumer refused its options", error=error, extra=extra, level=logging.DEBUG
            )
        raise
    keep_poll_waiting(consumer)
    finish_joins(consumer)
    obey_auto_create(consumer)
    end_when_fenced(consumer)
    read_all_records()
    return consumer
