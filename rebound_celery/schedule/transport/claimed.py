"""Opens what was claimed. What cannot be delivered is set aside, so that all that was claimed with it goes on."""

from __future__ import annotations

import logging
from typing import Any

from redis.exceptions import RedisError

from ...clock import SYSTEM_CLOCK, Clock
from ...errors import UnknownVersionError
from ..store.claims import RELEASE
from ..store.store import Store
from ..store.values import Claimed
from . import forms
from .installed import Installation
from .leases import Leases

#: Milliseconds that a message of a later version is left alone before it is reported again.
_UNKNOWN_PAUSE_MS = 300_000
#: Milliseconds until a message is read again for which a file could not be opened.
_UNOPENED_PAUSE_MS = 5_000

FAULTS = (RedisError, OSError)

logger = logging.getLogger(__name__)


class ClaimedMessages:
    """Opens the messages that one channel claims.

    Args:
        channel: the channel.
        leases: this process's leases.
        installation: what the app has chosen.
    """

    def __init__(
        self, channel: Any, leases: Leases, installation: Installation, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._channel = channel
        self._leases = leases
        self._tell_dead = installation.tell_dead
        self._clock = clock

    def open(self, name: str, store: Store, claimed: Claimed, token: str) -> dict[str, Any] | None:
        """The claimed message as kombu delivers it, but for its delivery tag; None if it is not to be delivered."""
        options = self._channel.options
        most = options.max_worker_losses
        if claimed.losses >= (most if forms.is_celerys(claimed.stored) else 2 * most):
            # Reading the message may be what kills workers, so it is not read first.
            self._keep_lost(store, claimed, token)
            return None
        try:
            return forms.open_claimed(options, name, claimed)
        except UnknownVersionError as error:
            # It stays in place: a worker of that version can read it. It is looked at again later, and reported again.
            logger.error("message %r is of another version and left alone: %s", claimed.id, error)  # noqa: TRY400
            self._end_unread(store, claimed, token, RELEASE, _UNKNOWN_PAUSE_MS)
        except OSError as error:
            # No file can be opened, mostly because this process has no file descriptor left. No worker is lost.
            logger.warning(
                "message %r cannot be read now, and is read again in %d s: %s",
                claimed.id,
                _UNOPENED_PAUSE_MS / 1000,
                error,
            )
            self._end_unread(store, claimed, token, RELEASE, _UNOPENED_PAUSE_MS)
        except forms.DAMAGE as error:
            logger.error("message %r is set aside, for it cannot be read: %s", claimed.id, error)  # noqa: TRY400
            self._end_unread(store, claimed, token, "unreadable")
        except Exception:
            # For example, there is no memory for it. Its lease runs out, and it comes again. An error raised here would
            # hold up everything that was claimed with it.
            logger.exception("message %r cannot be read now, and comes up again", claimed.id)
        return None

    def _keep_lost(self, store: Store, claimed: Claimed, token: str) -> None:
        """Make a dead letter of a message whose workers were lost too often, and tell of the end of its task."""
        logger.error("message %r of queue %r is dead: its workers were lost too often", claimed.id, store.queue)
        try:
            settled = store.settle([self._leases.end_of(claimed, token, "worker-lost")])
        except FAULTS as error:
            # Its lease runs out, and it comes up again.
            logger.debug("message %r keeps its lease: %s", claimed.id, error)
            return
        if not settled:
            return
        try:
            self._tell_dead(forms.open_stored(self._channel.options, store.queue, claimed), claimed.losses)
        except Exception:
            # The message cannot be read, or the result backend has a fault. Others must be claimed all the same.
            logger.exception("the end of the dead message %r could not be told", claimed.id)

    def _end_unread(self, store: Store, claimed: Claimed, token: str, what: str, pause_ms: int = 0) -> None:
        try:
            store.settle([self._leases.end_of(claimed, token, what)])
            if pause_ms:
                store.reschedule(self._clock.now_ms() + pause_ms, claimed.id)
        except FAULTS as error:
            # Its lease runs out, and it comes up again.
            logger.debug("message %r keeps its lease: %s", claimed.id, error)
