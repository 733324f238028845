"""Keeps Python's garbage collector from looking at a worker's code again and again."""

from __future__ import annotations

import gc
from typing import Any


def spare_what_is_loaded(**_: Any) -> None:
    """Let no later collection look at what a worker has loaded when it starts (a receiver of `worker_init`).

    Each received message makes some dozen objects, so that collections are frequent; without this they take a quarter
    of the processor time of the worker's parent. The memory that prefork's children share with it stays shared, too.
    """
    if gc.isenabled():
        gc.collect()
        gc.freeze()
