"""Measures a consumer under load: it produces its own messages, fails some on purpose, and prints the outcomes.

    python benchmarks/consumer_benchmark.py --embedded --duration 30s
    python benchmarks/consumer_benchmark.py -kafka localhost:9092 -redis localhost:6379 -failure-rate 0.3 -duration 60s
    python benchmarks/consumer_benchmark.py --embedded --prefill 50000 --handler-ms 0 --failure-rate 0.2

The first two commands produce while they consume. They stop at the end of the duration, or on SIGINT or SIGTERM. A
second signal ends them at once. With --embedded, the program then waits until each message has come to its end.

The third command measures speed. It fills a new topic first, and then times one consumer process on it. Each message
fails at most once. A Celery worker starts only after the first pass, so that it takes no processor time from the
consumer.

stdout has the same lines as Rebound's Go program of the same name. Everything else, for example further settings, dead
letters and waiting retries, goes to the log on stderr.

Failed messages become Celery tasks in the queue "consumer-benchmark". This program starts a Celery worker process that
redelivers them, unless --no-worker says that you run one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # A script has only its own folder on the path.
    sys.path.insert(0, str(Path(__file__).parents[1]))

    from benchmarks.consumer_benchmark_parts.interrupts import Interrupts

    # Before the slow imports, so that no signal is missed.
    interrupts = Interrupts()
    interrupts.install()

    from benchmarks.consumer_benchmark_parts.command import main

    status = main(__doc__, interrupts)
    if interrupts.count > 1:
        # End without waiting for the consumer's threads.
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)
