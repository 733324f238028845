"""Which Celery apps have Rebound, and what the stages may ask of it without knowing how the parts are put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Unpack, cast
from weakref import WeakKeyDictionary

import msgspec
from celery import Celery, current_app

from .config import Settings
from .errors import InvalidSettingError, NotInstalledError
from .message import Message
from .places import place_of_caller

if TYPE_CHECKING:
    from celery.result import AsyncResult

    from .other_consumers import FailureOptions, Handled
    from .requests import RetryRequest
    from .scheduled import Scheduled

_ATTRIBUTE = "rebound"

#: The apps of this process that have Rebound, and where each got it.
_apps: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


class ChainChange(msgspec.Struct, frozen=True):
    """A change of a chain: of the messages of one key, which are handled one after the other. Only the first of them,
    the head, is on its way.

    Attributes:
        do: "arrive": the message is here; it is the caller's if it is the head, and else it is kept behind the head.
            "wait": its attempt has failed, and it waits until `due_ms`. "finish": it was handled, or it is a dead
            letter. "renew": the caller still works at it. "return": the caller will not handle it.
        chain: the chain's name.
        place: the message's place in the chain.
        attempt: the attempt that arrives, waits, or has ended.
        message: the message; None for "renew" and "return", and for "finish" where no dead letter has to be stored.
        due_ms: when the message is due, in Unix milliseconds.
        hold: whether the chain stops when this message becomes a dead letter.
        want: for "finish": the caller takes up to so many messages that follow.
    """

    do: Literal["arrive", "wait", "finish", "renew", "return"]
    chain: str
    place: int
    attempt: int
    message: Message | None = None
    due_ms: int = 0
    hold: bool = False
    want: int = 0


class ChainAnswer(NamedTuple):
    """What a change did.

    Attributes:
        outcome: of "arrive" it is "taken", "behind", or "dropped": a copy of a message that is on its way.
        is_open: whether the chain has messages.
        taken: the messages that the caller has to handle now, in their order.
    """

    outcome: str
    is_open: bool
    taken: Sequence[Message] = ()


class KeyChains(Protocol):
    """The chains in which messages of one key wait for each other."""

    def change(self, changes: Sequence[ChainChange]) -> list[ChainAnswer]:
        """Change chains, one change after the other; returns one answer for each.

        A message that the caller has taken is delivered by a worker if the caller neither ends nor renews it within
        the time of a lease (`rebound_lease`).

        Raises:
            NotStoredError: if Redis is away or refuses; some changes may have been made. Repeat all of them.
        """

    def names(self, prefix: str, after: str = "") -> list[str]:
        """The names of at most 500 chains that begin with `prefix`, in their order, behind the name `after`.

        Raises:
            NotStoredError: if Redis is away or refuses.
        """

    def break_up(self, prefix: str) -> int:
        """Let all messages of the chains that begin with `prefix` be delivered at once; returns how many there were.

        Raises:
            NotStoredError: if Redis is away or refuses.
        """


class RetryScheduler(Protocol):
    """What an installed `Rebound` offers to the stages."""

    @property
    def settings(self) -> Settings:
        """The app's `rebound_*` settings, read when first asked for."""

    def store(self, retries: Sequence[tuple[Message, int]]) -> None:
        """Store messages, each with its due time in Unix milliseconds, in one round trip.

        When it returns, Redis has confirmed every one of them. Storing the same attempt of a message twice is harmless.

        Raises:
            NotStoredError: if Redis is away or refuses; some may be stored. Store all of them again.
        """

    @property
    def chains(self) -> KeyChains:
        """The chains of rebound's queue."""

    def schedule(self, request: RetryRequest) -> AsyncResult:
        """Schedule one retry, as `schedule_retry` does.

        Raises:
            InvalidSettingError: naming the field that cannot be used.
            NotStoredError: if Redis is away or refuses.
        """

    def schedule_retries(self, requests: Iterable[Mapping[str, Any] | RetryRequest]) -> Scheduled:
        """Schedule many retries; each has its outcome."""

    def handle_failure(self, record: object, error: BaseException | str, **options: Unpack[FailureOptions]) -> Handled:
        """Store what follows the failure of a record in a consumer that is not rebound's."""

    async def handle_failure_async(
        self, record: object, error: BaseException | str, **options: Unpack[FailureOptions]
    ) -> Handled:
        """The same for asyncio."""

    def check_redis(self) -> None:
        """Ask Redis for an answer; raises UnreachableError with the address that was tried."""

    def warn_if_unclaimed(self) -> None:
        """Log a warning if messages are due that no worker claims. `store` does it too.

        Call this often while there is nothing to store: it asks Redis only twice a minute, and it does not raise.
        """


def check_app(app: object) -> None:
    """Check that an app can get a Rebound.

    Two of them would share the app's one delivery task and one queue: what one stores, the other would deliver, with
    other settings.

    Raises:
        InvalidSettingError: if this is no Celery app, or it has a Rebound already.
    """
    if not isinstance(app, Celery):
        raise InvalidSettingError("app", app, 'it is a Celery app: Rebound(Celery("shop", broker="redis://localhost"))')
    if installed(app) is not None:
        raise InvalidSettingError(
            "app",
            app.main,
            f"it has a Rebound already, from {_apps.get(app, 'another place')}, and {place_of_caller()} makes a second "
            "one; use app.rebound, which is the first, or another app",
        )


def install(app: Any, rebound: RetryScheduler) -> None:
    """Remember that `app` has `rebound`."""
    setattr(app, _ATTRIBUTE, rebound)
    _apps[app] = place_of_caller()


def installed(app: Any) -> RetryScheduler | None:
    """Return the Rebound of `app`; None if it has none."""
    return cast(RetryScheduler | None, getattr(app, _ATTRIBUTE, None))  # an app of celery


def find(app: Any = None) -> RetryScheduler:
    """Return the Rebound of `app`, or of Celery's current app when None.

    An app is Celery's current app only in the thread that has made it. In other threads, such as those of a web server,
    Celery puts an empty app in its place, unless a default app is set. Then the only app with Rebound is meant.

    Raises:
        NotInstalledError: if that app has none, or several apps have one and it is not clear which is meant.
    """
    if app is not None:
        chosen = app
    elif _is_stand_in(current_app):
        apps = list(_apps)
        if len(apps) > 1:
            raise NotInstalledError("", sorted(str(one.main) for one in apps))
        chosen = apps[0] if apps else current_app
    else:
        chosen = current_app  # a proxy; the attribute is looked up on the app behind it
    found = installed(chosen)
    if found is None:
        raise NotInstalledError(str(getattr(chosen, "main", None) or chosen))  # of the user: it may be anything
    return found


def _is_stand_in(app: Any) -> bool:
    """Whether Celery has made this app itself, because the thread has no current app and the process no default one."""
    return app.main == "default" and not app.set_as_current and installed(app) is None
