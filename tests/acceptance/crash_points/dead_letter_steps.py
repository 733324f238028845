"""The steps of the worker with dead letters: row of the table in docs/guarantees.md -> the steps that show it."""

from __future__ import annotations

from tests.acceptance.crash_points.calls import CONFIRM, LET_GO, SEND, TOLD
from tests.acceptance.crash_points.inject import after, after_script, before, before_script, broker_has_it, ends
from tests.acceptance.crash_points.steps import Step

DEAD_ONCE = {"letter retries-exhausted 1": 1}
DEAD_TWICE = {"letter retries-exhausted 1": 2}
REJECTED_ONCE = {"letter rejected 2": 1}
REJECTED_TWICE = {"letter rejected 2": 2}
REFUSED_TO_THE_END_ONCE = {"post 2": 1, "kept retries-exhausted 2": 1}
REFUSED_TO_THE_END_TWICE = {"post 2": 2, "kept retries-exhausted 2": 1}
LOST = {"post 2": 1, "kept worker-lost 2": 1}
LOST_IN_THE_SCHEDULE = {"kept worker-lost 2": 1}
DEAD_LOST = {"post 1": 1, "kept retries-exhausted 1": 1}
UNREADABLE = {"kept unreadable": 1}

DEAD_LETTERS = {
    "worker, before a dead letter is written": [
        Step("worker writes a dead letter", "dead letter: claim > write", before(SEND), DEAD_ONCE),
        Step("worker writes a rejected retry", "rejected retry: refusal > write", before(SEND), REJECTED_ONCE),
        Step(
            "worker reports a failing endpoint",
            "failing endpoint: answer > report",
            before_script("health"),
            REFUSED_TO_THE_END_TWICE,
        ),
        Step(
            "worker has reported a failing endpoint",
            "failing endpoint: report > keep",
            after_script("health"),
            REFUSED_TO_THE_END_TWICE,
        ),
        Step(
            "worker keeps a post refused to the end",
            "last refused post: answer > keep",
            before_script("keep_dead"),
            REFUSED_TO_THE_END_TWICE,
        ),
    ],
    "worker, after a dead letter is written, before the lease is settled": [
        Step(
            "worker has not heard that Kafka has a dead letter",
            "dead letter: write > confirm",
            before(CONFIRM, matching=broker_has_it),
            DEAD_TWICE,
        ),
        Step("worker settles a dead letter", "dead letter: confirm > settle", before_script("settle"), DEAD_TWICE),
        Step(
            "worker has not heard that Kafka has a rejected retry",
            "rejected retry: write > confirm",
            before(CONFIRM, matching=broker_has_it),
            REJECTED_TWICE,
        ),
        Step(
            "worker settles a rejected retry",
            "rejected retry: confirm > settle",
            before_script("settle"),
            REJECTED_TWICE,
        ),
        Step(
            "worker has kept a post refused to the end",
            "last refused post: keep > settle",
            after_script("keep_dead"),
            REFUSED_TO_THE_END_TWICE,
        ),
    ],
    "worker, after the lease of a dead letter is settled": [
        Step("worker has settled a dead letter", "dead letter: settle > next claim", after_script("settle"), DEAD_ONCE),
        Step(
            "parent has settled a dead letter",
            "dead letter: settle > next claim",
            after_script("settle"),
            DEAD_ONCE,
            "prefork",
        ),
        Step(
            "worker has settled a rejected retry",
            "rejected retry: settle > next claim",
            after_script("settle"),
            REJECTED_ONCE,
        ),
        Step(
            "worker has settled a post refused to the end",
            "last refused post: settle > next claim",
            after_script("settle"),
            REFUSED_TO_THE_END_ONCE,
        ),
    ],
    "worker, while it gives up a message because of lost workers": [
        Step("parent asks for the lease", "lost workers: loss > ask for the lease", before(LET_GO), LOST),
        Step("parent has asked for the lease", "lost workers: ask for the lease > store", after(LET_GO), LOST),
        Step("parent gives up", "lost workers: ask for the lease > store", before_script("enqueue"), LOST),
        Step("parent has given up", "lost workers: store > settle", after_script("enqueue"), LOST),
        Step("parent settles what it gave up", "lost workers: store > settle", before_script("settle"), LOST),
        Step("parent has settled what it gave up", "lost workers: settle > next claim", after_script("settle"), LOST),
        Step(
            "parent keeps a dead letter",
            "lost workers of a dead letter: loss > keep",
            before_script("keep_dead"),
            DEAD_LOST,
        ),
        Step(
            "parent has kept a dead letter",
            "lost workers of a dead letter: keep > settle",
            after_script("keep_dead"),
            DEAD_LOST,
        ),
        Step(
            "parent has settled a dead letter that it kept",
            "lost workers of a dead letter: settle > next claim",
            after_script("settle"),
            DEAD_LOST,
        ),
        Step(
            "worker has given up in its claim",
            "lost workers, seen by the claim: claim > tell the result backend",
            after_script("settle", matching=ends(":worker-lost")),
            LOST_IN_THE_SCHEDULE,
        ),
        Step(
            "worker has told what it gave up in its claim",
            "lost workers, seen by the claim: tell the result backend > next claim",
            after(TOLD),
            LOST_IN_THE_SCHEDULE,
        ),
    ],
    "worker, while it makes a dead letter of an unreadable message": [
        Step(
            "worker keeps what it cannot read",
            "unreadable message: claim > keep",
            before_script("keep_dead"),
            UNREADABLE,
        ),
        Step(
            "worker has kept what it cannot read",
            "unreadable message: keep > settle",
            after_script("keep_dead"),
            UNREADABLE,
        ),
        Step(
            "worker has settled what it cannot read",
            "unreadable message: settle > next claim",
            after_script("settle"),
            UNREADABLE,
        ),
        Step(
            "worker sets a broken entry aside", "broken entry: claim > set aside", before_script("settle"), UNREADABLE
        ),
        Step(
            "worker has set a broken entry aside",
            "broken entry: set aside > next claim",
            after_script("settle"),
            UNREADABLE,
        ),
    ],
}
