"""The leases on delivered messages, for whoever settles many of them at once."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..options import MessageLeases
from ..store.tallies import Tally
from .qos import LeasingQoS


class _NoLeases:
    """The leases of a channel that is not the schedule's: there are none."""

    def end(self, delivery_tags: Collection[str], tally: Tally | None = None) -> set[str]:  # noqa: ARG002
        return set(delivery_tags)

    def let_go(self, delivery_tags: Collection[str]) -> set[str]:  # noqa: ARG002 - as in the Protocol
        return set()

    def in_doubt(self) -> bool:
        return False

    def count_lost_worker(self, delivery_tag: str) -> None:
        """Nobody counts them."""

    def count_loss(self, delivery_tag: str) -> None:
        """Nobody counts them."""


_NONE = _NoLeases()


def message_leases(message: Any) -> MessageLeases:
    """See `schedule.port.message_leases`."""
    qos = getattr(message.channel, "qos", None)  # of kombu: not every transport has one
    return qos if isinstance(qos, LeasingQoS) else _NONE
