"""Small Celery apps for the workers of the tests."""
