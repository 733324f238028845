"""The torture run: real processes are killed, stopped and cut off at random, and at the end the books must balance.

    python -m tests.torture --minutes 30 --seed 1

starts Apache Kafka and a Redis that keeps what it acknowledges, both behind proxies, and three consumers, three workers
(threads and prefork), two producers and an HTTP receiver. A driver seeded by `--seed` does the faults of
`chaos.WEIGHTS`. What happened is read back from Kafka, Redis and the journals that every process writes; what must hold
stands in `books`, and how many duplicates there may be in `duplicates`. The figures are one line of JSON on stdout; the
status is 1, and the history of the messages concerned is told on stderr, if the promise was broken.

The order in which to read: options, run, servers and proxy, parts (app, handler, receiver, producer; all by the plan),
chaos, watch, journal and readback, history, books and duplicates, report.
"""
