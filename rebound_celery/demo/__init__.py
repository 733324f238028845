"""`celery rebound demo`: all parts of rebound in one terminal, on a Kafka and a Redis that the demo starts."""
