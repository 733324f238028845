"""The torture run: random kills, stops and network faults on real processes. At the end no message may be lost.

    python -m tests.torture --minutes 30 --seed 1

This starts Apache Kafka and a Redis that keeps all acknowledged data, both behind proxies. It also starts three
consumers, three workers (threads and prefork), two producers and an HTTP receiver. A driver makes the faults of
`chaos.WEIGHTS`; its seed is `--seed`. At the end the run reads Kafka, Redis and the journals that every process writes.
`checks` states the rules that must hold, and `duplicates` the largest number of duplicates. The figures are one line of
JSON on stdout. If a rule is broken, the status is 1, and stderr has the history of the messages concerned.

The order in which to read: options, run, servers and proxy, parts (app, handler, receiver, producer; all by the plan),
chaos, watch, journal and readback, history, checks and duplicates, report.
"""
