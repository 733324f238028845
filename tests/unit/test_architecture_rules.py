"""Every architecture rule works: it refuses a small package that breaks it, and accepts a package that keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.architecture.rules import RULES, key_start
from tests.architecture.tables import MAX_LINES, MAX_PUBLIC_NAMES
from tests.architecture.tree import Tree, Violation

#: The beginning of a key as an f-string spells it.
_IN_F_STRING = key_start().replace("{", "{{")

#: (rule, files that break it, the file that is named, a word of what is said)
BROKEN = [
    # A stage imports another stage's inside.
    ("arrows", {"delivery/job.py": "from ..schedule.store.keys import QueueKeys"}, "delivery/job.py", "QueueKeys"),
    ("arrows", {"consumer/loop.py": "from rebound_celery.delivery import job"}, "consumer/loop.py", "delivery"),
    ("arrows", {"delivery/job.py": "from ..destinations import http"}, "delivery/job.py", "destinations.http"),
    # Also in a function, and for the type checker only.
    ("arrows", {"delivery/job.py": "def f():\n    from ..consumer import loop"}, "delivery/job.py", "consumer.loop"),
    ("arrows", {"schedule/port.py": "from ..message import Message"}, "schedule/port.py", "message"),
    ("arrows", {"message/codec.py": "from ..schedule import port"}, "message/codec.py", "schedule.port"),
    ("arrows", {"policy/decide.py": "from ..message import Message"}, "policy/decide.py", "message"),
    ("arrows", {"attic/old.py": ""}, "attic/old.py", "not in the table of imports"),
    ("layers", {"schedule/store/s.py": "from ..transport import claimer"}, "schedule/store/s.py", "transport"),
    ("layers", {"schedule/transport/t.py": "from ..worker import watchdog"}, "schedule/transport/t.py", "worker"),
    ("foreign_packages", {"schedule/store/s.py": "import kombu"}, "schedule/store/s.py", "kombu"),
    ("foreign_packages", {"schedule/store/s.py": "from celery import Celery"}, "schedule/store/s.py", "celery"),
    ("foreign_packages", {"schedule/transport/t.py": "import kafka"}, "schedule/transport/t.py", "kafka"),
    ("foreign_packages", {"message/message.py": "from kafka import errors"}, "message/message.py", "kafka"),
    ("foreign_packages", {"delivery/job.py": "def f():\n    import urllib3"}, "delivery/job.py", "urllib3"),
    ("probes", {"delivery/job.py": 'f = getattr(channel, "let_go", None)'}, "delivery/job.py", "getattr"),
    ("probes", {"operate/pending.py": 'if hasattr(channel, "pool"): pass'}, "operate/pending.py", "hasattr"),
    ("probes", {"consumer/loop.py": 'f = getattr(x, "y", None)  # fast'}, "consumer/loop.py", "getattr"),
    ("private_names", {"delivery/job.py": "store._client.ping()"}, "delivery/job.py", "_client"),
    ("private_names", {"delivery/job.py": "x._client = 1  # noqa: SLF001 - faster"}, "delivery/job.py", "_client"),
    ("header_names", {"delivery/dead.py": 'x = {"rebound-id": 1}'}, "delivery/dead.py", "import it"),
    ("header_names", {"delivery/dead.py": 'X = b"rebound-id"'}, "delivery/dead.py", "import it"),
    ("header_names", {"delivery/a.py": 'X_HEADER = "rebound-x"'}, "delivery/a.py", "declared outside"),
    (
        "header_names",
        {"delivery/a.py": 'f("rebound-losses")', "schedule/b.py": 'g("rebound-losses")'},
        "schedule/b.py",
        "delivery, schedule",
    ),
    ("stack_traces", {"delivery/job.py": 'logger.exception("lost")'}, "delivery/job.py", "Redactor.log"),
    ("stack_traces", {"consumer/loop.py": 'logger.debug("lost", exc_info=True)'}, "consumer/loop.py", "Redactor.log"),
    ("clock_only", {"policy/decide.py": "import time"}, "policy/decide.py", "time"),
    ("clock_only", {"policy/decide.py": "from time import perf_counter"}, "policy/decide.py", "time"),
    ("clock_only", {"health.py": "from datetime import datetime\ndatetime.now()"}, "health.py", "now()"),
    ("redis_keys", {"delivery/job.py": f'KEY = "{key_start()}rebound}}:mine"'}, "delivery/job.py", "mine"),
    (
        "redis_keys",
        {"delivery/job.py": f'KEY = f"{_IN_F_STRING}{{queue}}:mine"'},
        "delivery/job.py",
        "key",
    ),
    ("redis_keys", {"dead_letters/set.py": 'KEY = "{rebound}.dead"'}, "dead_letters/set.py", "dead"),
    (
        "redis_keys",
        {"schedule/store/scripts/x.lua": f"-- comment\nlocal k = '{key_start()}q}}:dead'"},
        "schedule/store/scripts/x.lua",
        "KEYS",
    ),
    ("size", {"app.py": "x = 1\n" * (MAX_LINES + 1)}, "app.py", f"{MAX_LINES + 1} lines"),
    ("size", {"schedule/store/scripts/x.lua": "--\n" * (MAX_LINES + 1)}, "schedule/store/scripts/x.lua", "lines"),
    ("environment", {"delivery/job.py": 'import os\nos.environ["X"]'}, "delivery/job.py", "environment"),
    ("environment", {"delivery/job.py": "from os import getenv"}, "delivery/job.py", "environment"),
    ("public_face", {"__init__.py": "if True:\n    pass"}, "__init__.py", "logic"),
    ("public_face", {"__init__.py": f"__all__ = {['x'] * (MAX_PUBLIC_NAMES + 1)}"}, "__init__.py", "public names"),
]

#: (rule, files that keep it)
KEPT = [
    ("stack_traces", {"consumer/loop.py": 'redact.log(logger, "lost", error=error)', "app.py": "logger.exception(1)"}),
    ("arrows", {"delivery/job.py": "from ..schedule.port import Entry\nfrom ..destinations import Outcome"}),
    ("arrows", {"consumer/loop.py": "from ..message.headers import read_record\nfrom . import reading"}),
    ("layers", {"schedule/worker/w.py": "from ..transport import t\nfrom ..store import s"}),
    ("foreign_packages", {"schedule/transport/t.py": "import kombu", "destinations/kafka/k.py": "import kafka"}),
    ("probes", {"delivery/job.py": 'f = getattr(task, "acks_late", None)  # of celery\ng = getattr(x, name)'}),
    ("private_names", {"delivery/job.py": "x._pool.y()  # noqa: SLF001 - of celery: no public way"}),
    ("private_names", {"delivery/job.py": "class A:\n    def f(self, other):\n        self._b = other._b"}),
    (
        "header_names",
        {"consumer/a.py": 'Thread(name="rebound-consumer")\nimportlib.metadata.version("rebound-celery")'},
    ),
    ("clock_only", {"clock.py": "import time", "app.py": '"""It is time."""\nfrom .clock import SYSTEM_CLOCK'}),
    ("redis_keys", {"schedule/store/keys.py": f'KEY = "{key_start()}q}}"', "app.py": 'x = "rebound retries"'}),
    ("redis_keys", {"schedule/store/scripts/x.lua": f"-- {key_start()}q}}:dead\nlocal dead = KEYS[1]"}),
    ("size", {"app.py": "x = 1\n" * MAX_LINES}),
    ("environment", {"config.py": "import os\nos.environ"}),
    ("public_face", {"__init__.py": '"""Doc."""\nfrom .app import Rebound\n__all__ = ["Rebound"]'}),
]


def check(name: str, files: Mapping[str, str], directory: Path) -> list[Violation]:
    """Apply a rule to a package with these files, and the one that declares headers."""
    root = directory / "rebound_celery"
    for path, source in {"__init__.py": "", "message/headers.py": 'ID = "rebound-id"', **files}.items():
        target = root / path
        for folder in [target.parent, *target.parent.parents]:
            if folder == root:
                break
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "__init__.py").touch()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source)
    for part in ("consumer", "delivery", "destinations", "schedule"):
        (root / part).mkdir(exist_ok=True)
        (root / part / "__init__.py").touch()
    for module in ("consumer/loop", "delivery/job", "destinations/http", "schedule/port"):
        (root / f"{module}.py").touch()
    return RULES[name](Tree(root))


@pytest.mark.parametrize(("name", "files", "path", "word"), BROKEN)
def test_the_rule_names_what_breaks_it(
    name: str, files: Mapping[str, str], path: str, word: str, tmp_path: Path
) -> None:
    violations = check(name, files, tmp_path)

    assert any(violation.path == path and word in violation.what for violation in violations), violations


@pytest.mark.parametrize(("name", "files"), KEPT)
def test_the_rule_lets_be_what_keeps_it(name: str, files: Mapping[str, str], tmp_path: Path) -> None:
    assert check(name, files, tmp_path) == []


def test_every_rule_is_proved() -> None:
    assert {name for name, *_ in BROKEN} == {name for name, _ in KEPT} == set(RULES)
