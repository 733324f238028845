"""What breaks a rule by choice, each with the reason.

A test holds that every entry still breaks its rule, so the list cannot keep an entry that is no longer needed.
"""

from __future__ import annotations

from collections.abc import Mapping

#: (rule, path) -> why the rule does not hold there.
EXCEPTIONS: Mapping[tuple[str, str], str] = {
    ("header_names", "schedule/transport/eta.py"): (
        "`rebound-eta` is a header of a Celery message in Redis, which never reaches Kafka; "
        "the schedule does not import message/"
    ),
    (
        "header_names",
        "schedule/transport/keeping.py",
    ): "`rebound-keep` is a header of a Celery message that is about to be stored; it goes nowhere",
    (
        "header_names",
        "schedule/options.py",
    ): "`rebound-losses` is a header of a Celery message too, for the task that gets it",
    (
        "header_names",
        "delivery/form.py",
    ): "`rebound-slow` is a header of a Celery message too, which the worker's parent reads",
    ("stack_traces", "consumer/failure_handler.py"): "it logs a stack trace only if nothing is to be redacted",
    ("size", "compat/patches.py"): "it is a table with one row for each piece of upstream code",
}
