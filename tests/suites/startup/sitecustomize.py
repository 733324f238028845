"""Puts the schedule under the workers that tests start: Python imports this file if its folder is on PYTHONPATH."""

from tests.suites.install_schedule import install

install()
