"""The table of all steps."""

from __future__ import annotations

from tests.acceptance.crash_points.caller_steps import CALLERS
from tests.acceptance.crash_points.consumer_steps import CONSUMER
from tests.acceptance.crash_points.dead_letter_steps import DEAD_LETTERS
from tests.acceptance.crash_points.pool_steps import on_pools
from tests.acceptance.crash_points.prefork_steps import PREFORK
from tests.acceptance.crash_points.worker_steps import WORKER

#: A row, by the text in the first column of the table in docs/guarantees.md -> its steps.
ROWS = {**CALLERS, **CONSUMER, **on_pools({**WORKER, **DEAD_LETTERS}), **PREFORK}

STEPS = {step.name: step for steps in ROWS.values() for step in steps}

#: Rows of the same table that no kill of a consumer or worker can show -> the tests that show them.
ELSEWHERE = {
    "Redis, before it confirms a retry": (
        "tests/acceptance/test_consume.py::test_restarted_redis_pauses_the_consumer_and_loses_no_failure"
    ),
    "Kafka": "tests/integration/test_delivery_kafka.py::test_an_outage_is_waited_out_without_using_up_an_attempt",
    "the receiver of a POST": (
        "tests/integration/test_delivery_http.py::test_a_failed_delivery_is_tried_again_with_growing_delays_and_attempts"
    ),
    "Redis, while messages are held": (
        "tests/acceptance/test_delayed_delivery.py::test_restarted_redis_loses_nothing_and_the_worker_goes_on"
    ),
}
