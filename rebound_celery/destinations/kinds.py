"""The kinds of destinations, and the module that serves each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from ..config import Settings
from ..errors import ReboundError
from ..schedule.port import Health, Schedule
from . import Destination

logger = logging.getLogger(__name__)


def build(
    settings: Settings,
    open_schedule: Callable[[], AbstractContextManager[Schedule]],
    tell_disabled: Callable[[str, Health], None],
    *,
    has_schedule: bool = True,
) -> Mapping[str, Destination]:
    """Return a destination for each kind of address. None of them connects yet.

    Args:
        settings: the app's.
        open_schedule: opens the schedule of rebound's queue, where dead letters may be kept.
        tell_disabled: is told of an HTTP endpoint that was disabled.
        has_schedule: whether the app's broker has the schedule, where the health of endpoints is kept.
    """
    # Imported here so that an app that only schedules never loads a Kafka or HTTP client.
    from .dead_set import DeadSetDestination
    from .http import HttpDestination
    from .http_health import HealthyEndpoints
    from .http_plan import Plans
    from .kafka import KafkaDestination

    plans = Plans.with_settings(settings)
    http: Destination = HttpDestination.of(settings, plans)
    if has_schedule:
        http = HealthyEndpoints(
            http,
            open_schedule,
            lambda address: plans.of(address).disable_after_s,
            tell_disabled,
            settings.redact,
            backs_off=settings.breaker is None,
        )
    return {
        "kafka": KafkaDestination(
            settings.kafka_brokers,
            settings.kafka_options,
            settings.kafka_timeout,
            settings.kafka_client,
            settings.kafka_connection,
        ),
        "http": http,
        "dead-set": DeadSetDestination(open_schedule, settings.encryption_keys),
    }


def check_start(settings: Settings) -> None:
    """Check at a worker's start what needs no connection.

    Raises:
        SystemExit: if the function of `rebound_redact` cannot be imported.
    """
    settings.redact.check_or_exit()
    say_wrong_options(settings)


def say_wrong_options(settings: Settings) -> None:
    """Log which options of destinations are wrong. Otherwise it would look like an outage. Nothing connects."""
    _say_wrong_http_options(settings)
    if not settings.kafka_options and settings.kafka_security.security_protocol == "PLAINTEXT":
        return
    from .kafka import check_options

    try:
        check_options(settings.kafka_client, {**settings.kafka_options, **settings.kafka_connection()})
    except ReboundError as error:
        logger.critical("nothing can be delivered to Kafka: %s", error, extra={"event": "wrong_option"})


def _say_wrong_http_options(settings: Settings) -> None:
    if not settings.http_destinations:
        return
    from .http_plan import check

    for options in settings.http_destinations.all_options:
        try:
            check(options)
        except (ReboundError, ValueError) as error:
            logger.critical("some messages cannot be delivered over HTTP: %s", error, extra={"event": "wrong_option"})
