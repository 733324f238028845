"""The steps of a prefork pool's two processes: row of the table in docs/guarantees.md -> the steps that show it."""

from __future__ import annotations

from tests.acceptance.crash_points.calls import CHILD_IS_THROUGH, CONFIRM, PARENT_HEARS, POST, SEND
from tests.acceptance.crash_points.inject import (
    KillTarget,
    after,
    after_script,
    before,
    before_script,
    broker_has_it,
    confirmed,
)
from tests.acceptance.crash_points.steps import Step

CHILD, PARENT = KillTarget.CHILD, KillTarget.PARENT

ONCE = {"record 2": 1}
TWICE = {"record 2": 2}
ONCE_OR_TWICE = {"record 2": (1, 2)}
POSTED_TWICE = {"post 2": 2}
REFUSED_ONCE = {"post 2": 1, "post 3": 1}
REFUSED_TWICE = {"post 2": 2, "post 3": 1}
DEAD_ONCE = {"letter retries-exhausted 1": 1}
DEAD_TWICE = {"letter retries-exhausted 1": 2}
REFUSED_TO_THE_END_TWICE = {"post 2": 2, "kept retries-exhausted 2": 1}

PREFORK = {
    "a prefork child, in a delivery": [
        Step("child publishes", "retry in a child: job > publish", before(SEND, target=CHILD), ONCE),
        Step(
            "child has not heard that Kafka has it",
            "retry in a child: publish > confirm",
            before(CONFIRM, matching=broker_has_it, target=CHILD),
            TWICE,
        ),
        Step(
            "child is through",
            "retry in a child: confirm > answer to the parent",
            after(CHILD_IS_THROUGH, target=CHILD),
            TWICE,
        ),
        Step(
            "child has sent three of five",
            "retries in a child: publish > first confirm",
            after(SEND, number=3, target=CHILD),
            ONCE_OR_TWICE,
        ),
        Step(
            "child knows of three of five",
            "retries in a child: first confirm > last confirm",
            after(CONFIRM, matching=confirmed, number=3, target=CHILD),
            ONCE_OR_TWICE,
        ),
        Step(
            "child is through with five",
            "retries in a child: last confirm > answer to the parent",
            after(CHILD_IS_THROUGH, target=CHILD),
            TWICE,
        ),
        Step("child has the answer", "post: answer > settle", after(POST, target=CHILD), POSTED_TWICE, "prefork"),
        Step(
            "child stores a refused post",
            "refused post: answer > store again",
            before_script("enqueue", target=CHILD),
            REFUSED_TWICE,
            "prefork",
        ),
        Step(
            "child writes a dead letter", "dead letter: claim > write", before(SEND, target=CHILD), DEAD_ONCE, "prefork"
        ),
        Step(
            "child has not heard that Kafka has a dead letter",
            "dead letter: write > confirm",
            before(CONFIRM, matching=broker_has_it, target=CHILD),
            DEAD_TWICE,
            "prefork",
        ),
        Step(
            "child has written a dead letter",
            "dead letter: confirm > settle",
            after(CONFIRM, matching=confirmed, target=CHILD),
            DEAD_TWICE,
            "prefork",
        ),
        Step(
            "child has kept a post refused to the end",
            "last refused post: keep > settle",
            after_script("keep_dead", target=CHILD),
            REFUSED_TO_THE_END_TWICE,
            "prefork",
        ),
    ],
    "a prefork child, after a failed delivery was stored again": [
        Step(
            "child has stored a refused post",
            "refused post: store again > settle",
            after_script("enqueue", target=CHILD),
            REFUSED_ONCE,
            "prefork",
        ),
        Step(
            "child has stored a refused post, and one loss is too many",
            "refused post, one loss is too many: store again > settle",
            after_script("enqueue", target=CHILD),
            REFUSED_ONCE,
        ),
        Step(
            "child has stored refused posts",
            "refused posts: store again > settle",
            after_script("enqueue", target=CHILD),
            REFUSED_ONCE,
            "prefork",
        ),
    ],
    "a prefork parent, while its child delivers": [
        Step(
            "parent of a child that publishes",
            "retry in a child: job > publish",
            before(SEND, target=PARENT),
            ONCE_OR_TWICE,
        ),
        Step(
            "parent of a child that is through",
            "retry in a child: confirm > answer to the parent",
            after(CHILD_IS_THROUGH, target=PARENT),
            TWICE,
        ),
        Step("parent hears", "retry in a child: answer to the parent > settle", before(PARENT_HEARS), TWICE),
        Step("parent settles", "retry in a child: answer to the parent > settle", before_script("settle"), TWICE),
        Step("parent hears of five", "retries in a child: answer to the parent > settle", before(PARENT_HEARS), TWICE),
    ],
}
