"""The command line: `celery rebound ...`."""
