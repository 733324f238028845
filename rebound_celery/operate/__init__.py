"""What operators use: the commands of `celery rebound`, and the doctor."""
