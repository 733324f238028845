"""Every patch of Celery, kombu and kafka-python: each names the versions it is for and what it mends."""
