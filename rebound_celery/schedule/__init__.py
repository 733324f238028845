"""Stage 2: where a countdown waits. Delayed delivery in Redis for any Celery app; it knows nothing of Kafka.

`keys` names what is kept, `stored` is its form, `store` changes it, `leases` is what this process has claimed of it,
and `transport` makes it a part of kombu's Redis transport.
"""
