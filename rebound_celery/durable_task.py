"""A Celery task whose message leaves Redis only when its work is done."""

from __future__ import annotations

from celery import Task

#: What no setting of the app may change in such a task.
PROMISED = (
    "acks_late",
    "reject_on_worker_lost",
    "retry_on_worker_lost",
    "acks_on_failure",
    "acks_on_timeout",
    "max_retries",
    "expires",
)


class DurableTask(Task):
    """A task that is acknowledged only after its work, and given back if the worker dies or runs out of time.

    That holds whatever the app's own settings say.
    """

    acks_late = True
    reject_on_worker_lost = True
    retry_on_worker_lost = False
    acks_on_failure = False
    acks_on_timeout = False
    # Outages are waited out however long they take.
    max_retries = None
    # A message that expires is lost.
    expires = None

    @classmethod
    def annotate(cls) -> None:
        """Apply the app's `task_annotations`, save for what the promise rests on: `{"*": ...}` is meant for others."""
        super().annotate()
        for name in PROMISED:
            setattr(cls, name, getattr(DurableTask, name))
