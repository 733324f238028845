"""Whether an app's broker can keep what waits: Redis can, kombu's memory transport is for tests, and others cannot."""

from __future__ import annotations

import logging
from typing import Any
from weakref import WeakSet

from kombu.utils.url import sanitize_url

from .broker_options import check_broker_options
from .broker_url import REDIS_SCHEMES, check_broker_url, kind_of
from .errors import InvalidSettingError, UnsupportedBrokerError
from .shown import without_secrets

_MEMORY = "memory"

#: Apps whose users have been told that nothing is kept.
_warned: WeakSet[Any] = WeakSet()

logger = logging.getLogger(__name__)


def check_known_broker(app: Any) -> None:
    """Check the broker of an app as far as it is known already: no configuration is read for it.

    Raises:
        UnsupportedBrokerError: if the app has another broker than Redis.
    """
    # What was given to Celery(...), or set before the configuration is read, is here.
    url = app.conf.broker_write_url if app.configured else app._preconf.get("broker_url")  # noqa: SLF001 - of celery
    if url:
        _check(url)


def has_schedule(app: Any) -> bool:
    """Whether the app's broker keeps the schedule. It is False for kombu's memory transport; this is logged once.

    Raises:
        UnsupportedBrokerError: if the app has another broker than Redis.
        InvalidSettingError: if its URL is wrong, or one of its `broker_transport_options`.
    """
    url = app.conf.broker_write_url
    if not url:
        with app.connection_for_write() as connection:  # Celery's default; this connects nothing
            url = connection.as_uri()
    if _check(url):
        check_broker_url(url)
        check_broker_options(url, app.conf.broker_transport_options)
        return True
    if app not in _warned:
        _warned.add(app)
        logger.warning(
            "the broker is %s, which is for tests: nothing that waits is kept beyond this process",
            _shown(url),
            extra={"event": "nothing_kept"},
        )
    return False


def check_settings(app: Any) -> None:
    """Check the URLs and the options of an app's broker. Those of other brokers than Redis are left alone.

    Raises:
        InvalidSettingError: naming the wrong one.
    """
    for url in (app.conf.broker_read_url, app.conf.broker_write_url):
        check_broker_url(url)
        check_broker_options(url, app.conf.broker_transport_options)


def require_redis(app: Any) -> None:
    """Refuse any other broker than Redis, the memory transport too.

    Raises:
        UnsupportedBrokerError: naming the app's broker.
    """
    if not has_schedule(app):
        raise UnsupportedBrokerError(_shown(app.conf.broker_write_url))


def _check(url: Any) -> bool:
    """Whether it is Redis."""
    kind = kind_of(url)
    if kind in REDIS_SCHEMES:
        return True
    if kind == _MEMORY:
        return False
    raise UnsupportedBrokerError(_shown(url))


def shown_broker(app: Any) -> str:
    """The address of an app's broker for people: without its password, also where it names several servers."""
    return _shown(app.conf.broker_write_url or "redis://")


def _shown(url: Any) -> str:
    try:
        check_broker_url(url)
    except InvalidSettingError as error:
        # kombu takes a password that is not percent-encoded apart at a wrong place, and would show a part of it.
        return str(error.value)
    urls = url.split(";") if isinstance(url, str) else url
    return ";".join(map(_shown_one, urls))


def _shown_one(url: str) -> str:
    try:
        return str(sanitize_url(url)) if "://" in url else without_secrets(url)
    except ValueError:
        # kombu cannot take it apart, and says so with a part of it.
        return without_secrets(url)
