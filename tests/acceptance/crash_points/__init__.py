"""Kills at every step between two effects, exactly there, in real processes.

- `steps`: the flows, each a list of effects, and what a step is; `table` and its parts are all steps;
- `effects`: what the product does that others see, read from its source, so that no step is forgotten;
- `calls`, `inject`: how a process comes to its step and is killed there; the product has no hooks for it;
- `app`, `consume`, `call`: the processes; `receiver` takes the posts;
- `case`: starts the processes of one step and counts what Kafka, Redis and the receiver have at the end;
- `scenes`: drives each flow up to the kill, and from there to its end.

`tests/acceptance/test_crash_points.py` runs them.
"""
