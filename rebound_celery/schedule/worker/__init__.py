"""The schedule on the side of the Celery worker: installation, remote control, watchdog, lost workers."""
