"""The steps of a process that only schedules: row of the table in docs/guarantees.md -> the steps that show it.

After each step, another process makes the same call, and the messages are delivered.
"""

from __future__ import annotations

from tests.acceptance.crash_points.calls import SCHEDULE_RETRIES, SCHEDULE_RETRY, WAIT_FOR_REDIS
from tests.acceptance.crash_points.inject import after, after_script, before, before_script
from tests.acceptance.crash_points.steps import Step

WITHOUT_ID, DELIVERED = "without an id", "delivered meanwhile"

ONCE = {"post 2": 1}
TWICE = {"post 2": 2}

# Redis runs the sent script, although no process waits for its answer.
SENT = before(WAIT_FOR_REDIS)

CALLERS = {
    "caller of `schedule_retry`, before Redis has the retry": [
        Step("caller stores", "call: start > send", before_script("enqueue"), ONCE),
        Step("caller without an id stores", "call: start > send", before_script("enqueue"), ONCE, WITHOUT_ID),
        Step("caller stores several", "calls: start > store", before_script("enqueue"), ONCE),
    ],
    "caller of `schedule_retry`, after Redis has the retry, before the call returns": [
        Step("caller has sent", "call: send > answer", SENT, ONCE),
        Step("caller has the answer", "call: answer > return", after_script("enqueue"), ONCE),
        Step("caller has called", "call: answer > return", after(SCHEDULE_RETRY), ONCE),
        Step("caller has stored several", "calls: store > return", after(SCHEDULE_RETRIES), ONCE),
    ],
    "caller of `schedule_retry` without an `id`, after Redis has the retry": [
        Step("caller without an id has sent", "call: send > answer", SENT, TWICE, WITHOUT_ID),
        Step("caller without an id has called", "call: answer > return", after(SCHEDULE_RETRY), TWICE, WITHOUT_ID),
        Step(
            "caller without ids has stored several",
            "calls: store > return",
            after(SCHEDULE_RETRIES),
            TWICE,
            WITHOUT_ID,
        ),
    ],
    "caller of `schedule_retry`, after the retry was delivered, before the call returns": [
        Step("caller of what is delivered", "call: answer > return", after_script("enqueue"), TWICE, DELIVERED),
    ],
}
