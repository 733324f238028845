"""Sends deliveries to their destinations, unless the circuit breaker of a destination is open."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from ..destinations import Destination, Outcome, Unavailable, Underway
from ..redaction import Redactor
from .delivery import Delivery
from .outage_mode import OutageMode, is_failure
from .spans import SentSpans

if TYPE_CHECKING:
    from ..tracing import Tracer

logger = logging.getLogger(__name__)

_Outcomes = dict[int, Outcome | Underway]


def send(
    deliveries: Mapping[int, Delivery],
    destinations: Mapping[str, Destination],
    outage_mode: OutageMode | None,
    redact: Redactor,
    *,
    waits: bool,
    tracer: Tracer | None = None,
) -> tuple[_Outcomes, Collection[int]]:
    """Send; returns the outcomes, and which deliveries wait because the breaker of their destination is open.

    A delivery that has ended already is not sent, and breakers were told of it when it ended.

    Args:
        deliveries: by the number under which their outcomes are returned.
        destinations: by the kind of address that they serve.
        outage_mode: the circuit breakers of destinations; None if the app has none.
        redact: decides the part of an error's text that is logged.
        waits: whether every outcome is waited for.
        tracer: makes a span of each delivery that is sent; None for no spans.
    """
    outcomes: _Outcomes = {index: one.ended for index, one in deliveries.items() if one.ended is not None}
    unsent = {index: one for index, one in deliveries.items() if one.ended is None}
    if outage_mode is None:
        return outcomes | _send(unsent, destinations, redact, waits=waits, tracer=tracer), ()
    lanes = {index: outage_mode.lane_of(one.message) for index, one in unsent.items()}
    closed = outage_mode.held(set(lanes.values()))
    kept = {index for index, lane in lanes.items() if lane in closed} if closed else set()
    let_through = {index: one for index, one in unsent.items() if index not in kept}
    sent = _send(let_through, destinations, redact, waits=waits, tracer=tracer)
    known = {index: outcome for index, outcome in sent.items() if not isinstance(outcome, Underway)}
    opened = outage_mode.report([(lanes[index], outcome) for index, outcome in known.items()])
    held = {index for index, outcome in known.items() if lanes[index] in opened and is_failure(outcome)}
    outcomes |= sent
    for index in kept:
        outcomes[index] = Unavailable(f"the circuit breaker of {lanes[index]} is open")
    for lane, count in Counter(lanes[index] for index in held | kept).items():
        logger.info(
            "%d messages wait, because the circuit breaker of %s is open",
            count,
            lane,
            extra={"event": "held", "lane": lane, "messages": count},
        )
    return outcomes, held | kept


def _send(
    deliveries: Mapping[int, Delivery],
    destinations: Mapping[str, Destination],
    redact: Redactor,
    *,
    waits: bool,
    tracer: Tracer | None,
) -> _Outcomes:
    spans = None if tracer is None else SentSpans(tracer, deliveries, redact)
    by_kind: dict[str, list[int]] = defaultdict(list)
    for index, delivery in deliveries.items():
        by_kind[delivery.message.target.kind].append(index)
    outcomes: _Outcomes = {}
    for kind, indices in by_kind.items():
        answers: Sequence[Outcome | Underway]
        try:
            answers = destinations[kind].send([deliveries[index].message for index in indices])
        except Exception as error:  # noqa: BLE001 - a fault of rebound's or a library's: no message pays for it
            extra: dict[str, object] = {"event": "delivery_error"}
            redact.log(logger, "unexpected error while delivering to %s", kind, error=error, extra=extra)
            answers = [Unavailable(f"{kind}: {error!r}")] * len(indices)
        outcomes.update(zip(indices, answers, strict=True))
    if spans is not None:
        spans.end(outcomes)
    if not waits:
        return outcomes
    return {
        index: outcome.outcome.result() if isinstance(outcome, Underway) else outcome
        for index, outcome in outcomes.items()
    }
