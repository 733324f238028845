"""Where waiting messages are kept: Redis keys, scripts and their runner. It knows nothing of kombu or Celery."""
