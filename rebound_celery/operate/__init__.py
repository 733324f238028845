"""Beside the flow: the commands of `celery rebound`, and what operators look at."""
