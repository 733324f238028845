"""The steps of the consumer: row of the table in docs/guarantees.md -> the steps that show it."""

from __future__ import annotations

from tests.acceptance.crash_points.calls import (
    COMMIT,
    COMMITTED,
    HANDLER,
    INSIDE_HANDLER,
    JUDGED,
    LAST_COMMIT,
    POLL,
    REVOKED,
)
from tests.acceptance.crash_points.inject import (
    after,
    after_script,
    before,
    before_script,
    found,
    of_something,
    several,
)
from tests.acceptance.crash_points.steps import COMMIT_INTERVAL_S, Step

#: A record that is not done is not committed either, although there is time for a commit.
LONGER_THAN_A_COMMIT_S = 2 * COMMIT_INTERVAL_S

COMMITS = before(COMMIT, matching=of_something)
HAS_COMMITTED = before(COMMITTED, matching=of_something)

#: A group may rebalance before the records are handled, for example because Kafka has just made the topic.
IS_COMMITTING = before(REVOKED, matching=lambda call: call.args[0]._offset_tracker.stats().succeeded == 2)

ONCE = {"handled 1": 1}
TWICE = {"handled 1": 2}
ONCE_OR_TWICE = {"handled 1": (1, 2)}

# A record that fails at its first attempt. The same handler gets its retry as the second attempt.
FAILED_ONCE = {"handled 1": 1, "record 2": 1, "handled 2": 1}
FAILED_TWICE = {"handled 1": 2, "record 2": 1, "handled 2": 1}
FAILED_ONCE_OR_TWICE = {"handled 1": (1, 2), "record 2": 1, "handled 2": 1}
FAILED_TWICE_DELIVERED_TWICE = {"handled 1": 2, "record 2": 2, "handled 2": 2}

# A record that fails and has no retries.
DEAD_ONCE = {"handled 1": 1, "letter retries-exhausted 1": 1}
DEAD_TWICE = {"handled 1": 2, "letter retries-exhausted 1": 1}
DEAD_TWICE_WRITTEN_TWICE = {"handled 1": 2, "letter retries-exhausted 1": 2}

CONSUMER = {
    "consumer, before the handler returns": [
        Step("consumer polls", "record: start > poll", before(POLL), ONCE),
        Step("consumer has polled", "record: poll > handler", after(POLL, matching=found), ONCE),
        Step("consumer begins a record", "record: poll > handler", before(HANDLER), ONCE),
        Step(
            "consumer inside the handler",
            "record: poll > handler",
            before(INSIDE_HANDLER, pause_s=LONGER_THAN_A_COMMIT_S),
            TWICE,
        ),
        Step(
            "consumer inside the handler of the fourth of six",
            "records: first handler > last handler",
            before(INSIDE_HANDLER, number=4),
            ONCE_OR_TWICE,
        ),
    ],
    "consumer, after the handler, before the commit": [
        Step("consumer has handled", "record: handler > commit", after(HANDLER, pause_s=LONGER_THAN_A_COMMIT_S), TWICE),
        Step("consumer commits", "record: handler > commit", COMMITS, TWICE),
        Step("consumer has handled six", "records: last handler > commit", after(HANDLER, number=6), TWICE),
        Step("consumer commits in a rebalance", "partitions given away: handler > commit", IS_COMMITTING, TWICE),
        Step("consumer commits at its stop", "consumer stop: handler > commit", before(LAST_COMMIT), TWICE),
    ],
    "consumer, before its failure is stored": [
        Step(
            "consumer has judged a failure",
            "failure: handler > store",
            before(JUDGED, pause_s=LONGER_THAN_A_COMMIT_S),
            FAILED_TWICE,
        ),
        Step(
            "consumer stores a failure",
            "failure: handler > store",
            before_script("enqueue", pause_s=LONGER_THAN_A_COMMIT_S),
            FAILED_TWICE,
        ),
        Step(
            "consumer stores several failures",
            "failures: handlers > store",
            before_script("enqueue", matching=several, pause_s=LONGER_THAN_A_COMMIT_S),
            FAILED_ONCE_OR_TWICE,
        ),
        Step(
            "consumer stores the last failure",
            "last failure: handler > store",
            before_script("enqueue", pause_s=LONGER_THAN_A_COMMIT_S),
            DEAD_TWICE,
        ),
    ],
    "consumer, after its failure was stored, before the commit": [
        Step(
            "consumer waits for Redis to have a failure",
            "failure: store > commit",
            after_script("enqueue"),
            FAILED_TWICE,
        ),
        Step("consumer commits a failure", "failure: store > commit", COMMITS, FAILED_TWICE),
        Step(
            "consumer has stored several failures",
            "failures: store > commit",
            after_script("enqueue", matching=several),
            FAILED_ONCE_OR_TWICE,
        ),
        Step(
            "consumer has stored the last failure", "last failure: store > commit", after_script("enqueue"), DEAD_TWICE
        ),
        Step("consumer commits the last failure", "last failure: store > commit", COMMITS, DEAD_TWICE),
    ],
    "consumer, after its failure was stored and delivered, before the commit": [
        Step(
            "consumer commits a failure whose retry is there",
            "failure: store > commit",
            COMMITS,
            FAILED_TWICE_DELIVERED_TWICE,
            "delivered meanwhile",
        ),
        Step(
            "consumer commits a failure whose dead letter is there",
            "last failure: store > commit",
            COMMITS,
            DEAD_TWICE_WRITTEN_TWICE,
            "delivered meanwhile",
        ),
    ],
    "consumer, after the commit": [
        Step("consumer has committed", "record: commit > next poll", HAS_COMMITTED, ONCE),
        Step("consumer has committed a failure", "failure: commit > next poll", HAS_COMMITTED, FAILED_ONCE),
        Step("consumer has committed the last failure", "last failure: commit > next poll", HAS_COMMITTED, DEAD_ONCE),
        Step("consumer has committed in a rebalance", "partitions given away: commit > leave", HAS_COMMITTED, ONCE),
        Step("consumer has committed at its stop", "consumer stop: commit > leave", after(LAST_COMMIT), ONCE),
    ],
}
