"""Which Celery apps have Rebound, and what the stages may ask of it without knowing how the parts are put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Unpack, cast

from celery import current_app

from .config import Settings
from .errors import NotInstalledError
from .message import Message

if TYPE_CHECKING:
    from celery.result import AsyncResult

    from .other_consumers import FailureOptions, Handled
    from .requests import RetryRequest
    from .scheduled import Scheduled

_ATTRIBUTE = "rebound"


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


def install(app: Any, rebound: RetryScheduler) -> None:
    """Remember that `app` has `rebound`."""
    setattr(app, _ATTRIBUTE, rebound)


def installed(app: Any) -> RetryScheduler | None:
    """Return the Rebound of `app`; None if it has none."""
    return cast(RetryScheduler | None, getattr(app, _ATTRIBUTE, None))  # an app of celery


def find(app: Any = None) -> RetryScheduler:
    """Return the Rebound of `app`, or of Celery's current app when None.

    Raises:
        NotInstalledError: if that app has none.
    """
    # current_app is a proxy; the attribute is looked up on the app behind it.
    chosen = current_app if app is None else app
    found = installed(chosen)
    if found is None:
        raise NotInstalledError(str(getattr(chosen, "main", None) or chosen))  # of the user: it may be anything
    return found
