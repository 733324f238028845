"""Delayed delivery for a Celery app: its Redis connections get the transport with a schedule."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import ref

from celery import Celery, signals

from ...broker import check_known_broker, check_settings, has_schedule
from ...broker_options import check_broker_options
from ...broker_url import check_broker_url
from ...compat.celery_connections import add_transport_option
from ...compat.kombu_reconnects import look_often
from ...compat.kombu_transports import replace_transports
from ...errors import InvalidSettingError, UnsupportedBrokerError
from ...places import place_of_caller
from ...stopping import forget_stop, tell_children
from ..options import ScheduleOptions
from ..transport import eta, installed
from ..transport.installed import Installation
from ..transport.message_leases import message_leases
from . import announcements, worker_state
from .remote_control import extend_panel, make_control
from .start_checks import warn_of_eviction, warn_of_unconsumed

_HOME = "rebound_celery.schedule.transport.transport"
_TRANSPORTS = {
    "redis": f"{_HOME}:Transport",
    "rediss": f"{_HOME}:Transport",
    "sentinel": f"{_HOME}:SentinelTransport",
}

_STOP_STEP = "rebound_celery.schedule.worker.stop_step:StopStep"

logger = logging.getLogger(__name__)

#: Short names that a mapping of options may use.
_SHORT = {"lease": "lease_s", "max_losses": "max_worker_losses"}

#: Options, or a function that tells them; a mapping has the names of `ScheduleOptions`.
Options = ScheduleOptions | Mapping[str, Any]


def install_schedule(
    app: Celery, options: Options | Callable[[], Options] | None = None, *, in_copies: bool = True
) -> None:
    """Let every countdown of `app` wait in Redis under a lease, instead of in a worker's memory.

    Broker URLs stay as they are (redis, rediss, sentinel, sockets), with all options. Another broker is refused: at
    once where it is known already, else when a worker starts. With `memory://`, for tests, nothing is changed.

    Args:
        app: the Celery app.
        options: see `ScheduleOptions`; None means its defaults. A function is asked whenever a channel is opened, so
            that settings can be read late.
        in_copies: whether the copies of the app get it too, as in a pool's spawned processes.

    Raises:
        UnsupportedBrokerError: if the app is known to have another broker than Redis.
        InvalidSettingError: if this is no Celery app, or it has a schedule already, which has other options.
    """
    if not isinstance(app, Celery):
        raise InvalidSettingError("app", app, 'it is a Celery app: Celery("shop", broker="redis://localhost")')
    earlier = installed.installation_on(app)
    if earlier is not None and in_copies:
        raise InvalidSettingError(
            "app",
            app.main,
            f"it has the schedule already, from {earlier.place}, and {place_of_caller()} installs a second one; "
            "Rebound(app) brings the schedule, and its settings have the options",
        )
    if earlier is not None and not earlier.is_copy:
        logger.warning(
            "the options of install_schedule at %s have no effect: Rebound brings the schedule, with its own settings",
            earlier.place,
            extra={"event": "schedule_replaced"},
        )
    check_known_broker(app)
    read = partial(_read, options)
    token = _install(app, read)
    # A copy of the app has its fixups (see `__reduce_keys__`), and Celery calls them where it makes the copy.
    others = [fixup for fixup in app.fixups if not isinstance(fixup, _Copied)]
    app.fixups = [*others, _Copied(app.main, token, read)] if in_copies else others


def _install(app: Celery, read_options: Callable[[], ScheduleOptions], *, is_copy: bool = False) -> str:
    replace_transports(_TRANSPORTS)
    token = f"{app.main}-{id(app):x}"
    installation = Installation(token, read_options, partial(_tell_dead, ref(app)), app_name=app.main, is_copy=is_copy)
    setattr(app, installed.ATTRIBUTE, installation)
    add_transport_option(app, installed.OPTION, token, _check_connection, _look_often)
    signals.task_received.connect(eta.give_back, dispatch_uid="rebound-eta")
    control_cls = app.control_cls
    if not isinstance(control_cls, partial) or control_cls.func is not make_control:
        # Celery takes any callable here, and this one is pickled with the app.
        app.control_cls = partial(make_control, control_cls)
        vars(app).pop("control", None)  # made already, from the class before
    installed.set_worker(worker_state.ThisWorker())
    signals.celeryd_init.connect(_check_broker, dispatch_uid="rebound-broker")
    signals.worker_init.connect(_prepare_worker, dispatch_uid="rebound-worker")
    signals.worker_shutting_down.connect(tell_children, dispatch_uid="rebound-tell-stop")
    signals.worker_shutdown.connect(forget_stop, dispatch_uid="rebound-forget-stop")
    # By its name, because importing it takes time, and only a worker needs it.
    app.steps["worker"].add(_STOP_STEP)
    signals.worker_ready.connect(_check_start, dispatch_uid="rebound-start")
    signals.worker_ready.connect(_watch, dispatch_uid="rebound-watch")
    signals.worker_shutdown.connect(_unwatch, dispatch_uid="rebound-unwatch")
    signals.worker_shutdown.connect(_give_back, dispatch_uid="rebound-give-back")
    return token


class _Copied:
    """Installs the schedule on copies of an app: those that are made of a pickle, as in a pool's spawned processes.

    What the app has chosen can seldom be pickled: functions, and the forms of leased queues. So a copy looks for the
    app that has its name, which its process makes when it imports the app's module. Until then it has the options as
    they were, without the forms.
    """

    def __init__(self, app_name: str | None, token: str, read_options: Callable[[], ScheduleOptions]) -> None:
        self._app_name = app_name
        self._token = token
        self._read_options = read_options

    def __call__(self, app: Celery) -> _Copied:
        _install(app, self._of_copy, is_copy=True)
        return self

    def _of_copy(self) -> ScheduleOptions:
        original = installed.original_of(self._app_name, self._token)
        return self._read_options() if original is None else original.read_options()

    def __reduce__(self) -> tuple[Any, ...]:
        options = self._read_options()
        return _copied, (self._app_name, self._token, replace(options, leased=dict.fromkeys(options.leased)))


def _copied(app_name: str | None, token: str, options: ScheduleOptions) -> _Copied:
    return _Copied(app_name, token, partial(_read, options))


def _read(options: Options | Callable[[], Options] | None) -> ScheduleOptions:
    chosen = options() if callable(options) else options
    if chosen is None:
        return ScheduleOptions()
    if isinstance(chosen, ScheduleOptions):
        return chosen
    named = {_SHORT.get(name, name): value for name, value in chosen.items()}
    leased = named.get("leased", {})
    if not isinstance(leased, Mapping):
        # Names alone: all messages of these queues have Celery's own form.
        named["leased"] = dict.fromkeys(leased)
    return ScheduleOptions(**named)


def _tell_dead(app: ref[Celery], message: dict[str, Any], losses: int) -> None:
    its_app = app()
    if its_app is not None:
        announcements.worker_lost(its_app, message, losses)


def _check_connection(url: Any, options: Any) -> None:
    check_broker_url(url)
    check_broker_options(url, options)


def _look_often(connection: Any) -> None:
    if connection.transport_cls in _TRANSPORTS:
        look_often(connection)


def _check_broker(instance: Any = None, **_: Any) -> None:
    app = instance.app
    if not installed.is_installed(app):
        return
    try:
        check_settings(app)
    except InvalidSettingError as error:
        # Celery would log it, and go on to an error that shows a part of the password.
        raise SystemExit(f"Error: {error}") from None


def _prepare_worker(sender: Any = None, **_: Any) -> None:
    # Here, because only a worker has it, and importing it takes time.
    from ...compat.celery_events import use_dispatcher
    from ...compat.celery_request import use_request

    if not installed.is_installed(sender.app):
        return  # the worker of another app of this process
    try:
        has_schedule(sender.app)
    except UnsupportedBrokerError as error:
        # Celery would log any other exception, and go on.
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    worker_state.remember(sender)
    extend_panel()
    use_request(sender.app, _count_loss)
    use_dispatcher(sender.app)


def _count_loss(message: Any) -> None:
    message_leases(message).count_loss(message.delivery_tag)


def _check_start(sender: Any = None, **_: Any) -> None:
    if not installed.is_installed(sender.app):
        return
    warn_of_eviction(sender.app)
    warn_of_unconsumed(sender)


def _watch(sender: Any = None, **_: Any) -> None:
    from . import watchdog

    if installed.is_installed(sender.app):
        watchdog.watch(sender)


def _unwatch(sender: Any = None, **_: Any) -> None:
    from . import watchdog

    watchdog.unwatch(sender)


def _give_back(sender: Any = None, **_: Any) -> None:
    from . import left_over

    left_over.give_back(sender)
