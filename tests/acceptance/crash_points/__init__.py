"""Kills real processes at every step between two effects of the product.

- `steps`: the flows (each is a list of effects) and the class of a step; `table` and its parts list all steps;
- `effects`: the effects of the product that other processes see. They are read from its source, so none is forgotten;
- `calls`, `inject`: bring a process to its step and kill it there. The product has no code for this;
- `app`, `consume`, `call`: the processes; `receiver` takes the posts;
- `case`: starts the processes of one step, and at the end counts the messages in Kafka, Redis and the receiver;
- `scenes`, `consumer_scenes`: run each flow up to the kill, and then to its end.

`tests/acceptance/test_crash_points.py` runs them.
"""
