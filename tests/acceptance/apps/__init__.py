"""Small Celery apps that tests run workers of."""
