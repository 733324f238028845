"""Celery's and kombu's own integration suites, on stock and on our transport: `python -m tests.suites`."""
