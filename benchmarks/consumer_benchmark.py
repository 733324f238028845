"""A consumer under load: it produces its own messages, fails some of them on purpose, and says what became of them.

    python benchmarks/consumer_benchmark.py --embedded --duration 30s
    python benchmarks/consumer_benchmark.py -kafka localhost:9092 -redis localhost:6379 -failure-rate 0.3 -duration 60s
    python benchmarks/consumer_benchmark.py --embedded --prefill 50000 --handler-ms 0 --failure-rate 0.2

The first two produce while they consume, and stop at the end of the duration or on SIGINT or SIGTERM; a second signal
ends them at once. At the end of the duration, --embedded waits until each message has come to its end.

The third measures speed: it fills a new topic first, then times one consumer process on it. There each message fails at
most once, and a Celery worker is started only when the first pass is over, so that it takes no time from the consumer.

stdout is what Rebound's Go program of the same name prints; everything else, such as further settings, dead letters and
retries that still wait, goes to the log on stderr.

Failed messages become Celery tasks in the queue "consumer-benchmark". This program starts a Celery worker process that
redelivers them, unless --no-worker says that you run one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # As a script it finds its own folder only.
    sys.path.insert(0, str(Path(__file__).parents[1]))

    from benchmarks.consumer_benchmark_parts.interrupts import Interrupts

    # Before what takes time to import: a signal counts from here on.
    interrupts = Interrupts()
    interrupts.install()

    from benchmarks.consumer_benchmark_parts.command import main

    status = main(__doc__, interrupts)
    if interrupts.count > 1:
        # Nobody waits for the consumer's threads any more.
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)
