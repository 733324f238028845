"""Every patch of celery, kombu and kafka-python.

`patches.py` declares all of them, with the versions that they were tested with, and `versions.py` warns of others. The
other modules hold the patches themselves, one module for each upstream package or part of it.
"""
