"""The kinds of destinations, and the module that serves each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from ..config import Settings
from ..errors import ReboundError
from ..schedule.port import Schedule
from . import Destination

logger = logging.getLogger(__name__)


def build(
    settings: Settings, open_schedule: Callable[[], AbstractContextManager[Schedule]]
) -> Mapping[str, Destination]:
    """Return a destination for each kind of address. None of them connects yet.

    Args:
        settings: the app's.
        open_schedule: opens the schedule of rebound's queue, where dead letters may be kept.
    """
    # Imported here so that an app that only schedules never loads a Kafka or HTTP client.
    from .dead_set import DeadSetDestination
    from .http import HttpDestination
    from .kafka import KafkaDestination

    return {
        "kafka": KafkaDestination(
            settings.kafka_brokers,
            settings.kafka_options,
            settings.kafka_timeout,
            settings.kafka_client,
            settings.kafka_connection,
        ),
        "http": HttpDestination.of(settings),
        "dead-set": DeadSetDestination(open_schedule, settings.encryption_keys),
    }


def say_wrong_options(settings: Settings) -> None:
    """Log which option of the producer is wrong. Otherwise it would look like an outage of Kafka. Nothing connects."""
    if not settings.kafka_options and settings.kafka_security.security_protocol == "PLAINTEXT":
        return
    from .kafka import check_options

    try:
        check_options(settings.kafka_client, {**settings.kafka_options, **settings.kafka_connection()})
    except ReboundError as error:
        logger.critical("nothing can be delivered to Kafka: %s", error, extra={"event": "wrong_option"})
