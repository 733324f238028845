"""Puts the schedule under the workers that tests start: Python imports this file if its folder is on PYTHONPATH."""

import os
import traceback

try:
    from tests.suites.install_schedule import install

    install()
except BaseException:  # noqa: BLE001 - also what ends a process
    # Python would go on without the schedule, and the suite would run on stock.
    traceback.print_exc()
    os._exit(1)
