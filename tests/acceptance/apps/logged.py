"""A shop with logging of its own: `celery -A tests.acceptance.apps.logged rebound consume`.

LOGGED says how: "setup" connects a receiver to Celery's signal `setup_logging`, "after" one to `after_setup_logger`,
and "handler" gives the root logger a handler before Celery sets logging up. "kept" does the same, with the setting
`worker_hijack_root_logger=False`.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from celery import Celery, signals

from rebound_celery import Rebound
from rebound_celery.embedded import free_port

how = os.environ.get("LOGGED", "")
app = Celery("logged", broker=f"redis://127.0.0.1:{free_port()}/0")
app.conf.worker_hijack_root_logger = how != "kept"
rebound = Rebound(app)


def mark(text: str) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{text} %(levelname)s %(message)s"))
    return handler


def set_up(**_: Any) -> None:
    logging.getLogger().addHandler(mark("own set-up"))
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("shop").error("logging is set up")


def add(logger: logging.Logger, **_: Any) -> None:
    logger.addHandler(mark("added"))


if how == "setup":
    signals.setup_logging.connect(set_up)
elif how == "after":
    signals.after_setup_logger.connect(add)
elif how in ("handler", "kept"):
    logging.getLogger().addHandler(mark("earlier"))
