"""Stage 2: where a countdown waits. Delayed delivery in Redis for any Celery app; it knows nothing of Kafka.

`store` keeps messages in Redis, `transport` makes the schedule a part of kombu's Redis transport, and `worker` is the
side of the Celery worker. Other parts call `install_schedule` and what `port` declares, and nothing else.
"""

from .worker.installation import install_schedule

__all__ = ["install_schedule"]
