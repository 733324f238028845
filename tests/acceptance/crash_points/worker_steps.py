"""The steps of the worker with live messages: row of the table in docs/guarantees.md -> the steps that show it."""

from __future__ import annotations

from tests.acceptance.crash_points.calls import (
    ACKNOWLEDGED,
    CONFIRM,
    HANDED_OVER,
    POST,
    REQUEST,
    SEND,
    SETTLE_LATER,
    TELL_RESULT,
    WAIT_FOR_ANSWER,
)
from tests.acceptance.crash_points.inject import (
    KillTarget,
    after,
    after_script,
    before,
    before_script,
    broker_has_it,
    claimed,
    confirmed,
    ends,
)
from tests.acceptance.crash_points.steps import Step

ONCE = {"record 2": 1}
TWICE = {"record 2": 2}
ONCE_OR_TWICE = {"record 2": (1, 2)}

POSTED_ONCE = {"post 2": 1}
POSTED_TWICE = {"post 2": 2}
POSTED_ONCE_OR_TWICE = {"post 2": (1, 2)}

# Attempt 2 is refused, attempt 3 is not.
REFUSED_ONCE = {"post 2": 1, "post 3": 1}
REFUSED_TWICE = {"post 2": 2, "post 3": 1}
# If the answer comes just when the job ends, the outcome is stored while another thread reports it.
REFUSED_ONCE_OR_TWICE = {"post 2": (1, 2), "post 3": 1}

SUCCESS = {"result SUCCESS": 1}

WORKER = {
    "worker, before Kafka or the receiver has the message": [
        Step("worker claims", "retry: start > claim", before_script("claim"), ONCE),
        Step("worker has claimed", "retry: claim > job", after_script("claim", matching=claimed), ONCE),
        Step("worker confirms its claim", "retry: claim > job", before_script("confirm"), ONCE),
        Step("worker has confirmed its claim", "retry: claim > job", after_script("confirm"), ONCE),
        Step("worker makes a job", "retry: claim > job", before(HANDED_OVER), ONCE),
        Step("worker publishes", "retry: job > publish", before(SEND), ONCE),
        Step("parent makes a job", "retry in a child: claim > job", before(HANDED_OVER), ONCE),
        Step("worker posts", "post: claim > post", before(REQUEST), POSTED_ONCE),
    ],
    "worker, after Kafka or the receiver has it, before the lease is settled": [
        Step("worker has sent and Kafka may have it", "retry: publish > confirm", after(SEND), ONCE_OR_TWICE),
        Step(
            "worker has not heard that Kafka has it",
            "retry: publish > confirm",
            before(CONFIRM, matching=broker_has_it),
            TWICE,
        ),
        Step(
            "worker tells the result backend",
            "retry with a result: confirm > tell the result backend",
            before(TELL_RESULT),
            TWICE | SUCCESS,
        ),
        Step("worker knows that Kafka has it", "retry: confirm > settle", after(CONFIRM, matching=confirmed), TWICE),
        Step("worker settles", "retry: confirm > settle", before_script("settle"), TWICE),
        Step("worker has sent three of five", "retries: publish > first confirm", after(SEND, number=3), ONCE_OR_TWICE),
        Step(
            "worker knows of three of five",
            "retries: first confirm > last confirm",
            after(CONFIRM, matching=confirmed, number=3),
            ONCE_OR_TWICE,
        ),
        Step(
            "worker has acknowledged, and Redis has not heard of it",
            "retries: last confirm > settle",
            after(ACKNOWLEDGED),
            ONCE_OR_TWICE,
        ),
        Step("worker has posted", "post: post > answer", before(WAIT_FOR_ANSWER), POSTED_TWICE),
        Step("worker has not read the answer", "post: post > answer", after(REQUEST), POSTED_TWICE),
        Step("worker has the answer", "post: answer > settle", after(POST), POSTED_TWICE),
        Step(
            "worker has two of four answers",
            "posts: first answer > last answer",
            after(POST, number=2),
            POSTED_ONCE_OR_TWICE,
        ),
        Step(
            "worker stores again what is under way",
            "post under way: post > store again",
            before_script("enqueue"),
            POSTED_TWICE,
        ),
        Step("worker settles four posts", "posts: last answer > settle", before_script("settle"), POSTED_TWICE),
        # The first renewal may come before the post.
        Step("worker renews a lease", "renewal: claim > renew", before_script("renew"), POSTED_ONCE_OR_TWICE),
        Step("worker has renewed a lease", "renewal: renew > answer", after_script("renew"), POSTED_ONCE_OR_TWICE),
    ],
    "worker, after the result was stored in a result backend, before the lease is settled": [
        Step(
            "worker has told the result backend",
            "retry with a result: tell the result backend > settle",
            after(TELL_RESULT),
            TWICE | SUCCESS,
        ),
        Step(
            "child has told the result backend",
            "retry with a result: tell the result backend > settle",
            after(TELL_RESULT, target=KillTarget.CHILD),
            TWICE | SUCCESS,
            "prefork",
        ),
    ],
    "worker, after the lease is settled": [
        Step(
            "worker has settled what has a result",
            "retry with a result: settle > next claim",
            after_script("settle"),
            ONCE | SUCCESS,
        ),
        Step("worker has settled", "retry: settle > next claim", after_script("settle"), ONCE),
        Step("worker has settled a post", "post: settle > next claim", after_script("settle"), POSTED_ONCE),
        Step("parent has settled", "retry in a child: settle > next claim", after_script("settle"), ONCE),
    ],
    "worker, before a failed delivery is stored again": [
        Step(
            "worker stores a refused post",
            "refused post: answer > store again",
            before_script("enqueue"),
            REFUSED_TWICE,
        ),
        Step(
            "worker stores refused posts",
            "refused posts: answers > store again",
            before_script("enqueue"),
            REFUSED_TWICE,
        ),
        Step("worker stores what Kafka did not take", "outage: refusal > store again", before_script("enqueue"), ONCE),
    ],
    "worker, after a failed delivery was stored again": [
        Step(
            "worker has stored a refused post",
            "refused post: store again > settle",
            after_script("enqueue"),
            REFUSED_ONCE,
        ),
        Step(
            "worker settles a refused post", "refused post: store again > settle", before_script("settle"), REFUSED_ONCE
        ),
        Step(
            "worker has settled a refused post",
            "refused post: settle > next claim",
            after_script("settle"),
            REFUSED_ONCE,
        ),
        Step(
            "parent has settled a refused post",
            "refused post: settle > next claim",
            after_script("settle"),
            REFUSED_ONCE,
            "prefork",
        ),
        Step(
            "worker has stored refused posts",
            "refused posts: store again > settle",
            after_script("enqueue"),
            REFUSED_ONCE,
        ),
        Step(
            "worker tells the result backend of a refused post",
            "refused post with a result: store again > tell the result backend",
            before(TELL_RESULT),
            REFUSED_ONCE | SUCCESS,
        ),
        Step(
            "worker has told the result backend of a refused post",
            "refused post with a result: tell the result backend > settle",
            after(TELL_RESULT),
            REFUSED_ONCE | SUCCESS,
        ),
        Step(
            "worker has settled a refused post that has a result",
            "refused post with a result: settle > next claim",
            after_script("settle"),
            REFUSED_ONCE | SUCCESS,
        ),
        Step(
            "worker has stored what Kafka did not take", "outage: store again > settle", after_script("enqueue"), ONCE
        ),
        Step("worker has settled what Kafka did not take", "outage: settle > next claim", after_script("settle"), ONCE),
    ],
    "worker, while a post is under way whose job has ended": [
        Step(
            "worker has stored again what is under way",
            "post under way: store again > settle",
            after_script("enqueue"),
            POSTED_TWICE,
        ),
        Step(
            "worker has settled the job of what is under way",
            "post under way: settle > answer",
            after_script("settle"),
            POSTED_TWICE,
        ),
        Step(
            "worker has an answer after the job",
            "answer after the job: answer > store the outcome",
            before(SETTLE_LATER),
            POSTED_TWICE,
        ),
        Step(
            "worker stores an outcome after the job",
            "answer after the job: answer > store the outcome",
            before_script("enqueue", number=2),
            POSTED_TWICE,
        ),
        Step(
            "worker reports a refusal after the job",
            "refusal after the job: answer > report",
            before_script("health"),
            REFUSED_ONCE_OR_TWICE,
        ),
        Step(
            "worker has reported a refusal after the job",
            "refusal after the job: report > store the outcome",
            after_script("health"),
            REFUSED_ONCE_OR_TWICE,
        ),
    ],
    "worker, after the outcome of such a post was stored": [
        Step(
            "worker has stored an outcome after the job",
            "answer after the job: store the outcome > settle",
            after(SETTLE_LATER),
            POSTED_ONCE,
        ),
        Step(
            "worker settles an outcome after the job",
            "answer after the job: store the outcome > settle",
            before_script("settle", number=2),
            POSTED_ONCE,
        ),
        Step(
            "worker has settled an outcome after the job",
            "answer after the job: settle > next claim",
            after_script("settle", number=2),
            POSTED_ONCE,
        ),
    ],
    "worker, while it stops and gives back the messages that it had not begun": [
        Step(
            "worker gives back",
            "worker stop: stop > release",
            before_script("settle", matching=ends("release")),
            POSTED_ONCE_OR_TWICE,
        ),
        Step(
            "worker has given back",
            "worker stop: release > exit",
            # A message under way may be posted, but not settled yet.
            after_script("settle", matching=ends("release")),
            POSTED_ONCE_OR_TWICE,
        ),
    ],
}
