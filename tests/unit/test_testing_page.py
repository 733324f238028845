"""The page on testing: its tests pass, and what its table names exists."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from rebound_celery.testing import InMemory, in_memory

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text("utf-8")
IN_MEMORY, WITH_SERVERS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_test_in_memory_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the app of the example."""
    example: Any = {"__name__": "shop"}
    exec(compile((ROOT / "examples" / "test_orders.py").read_text(), "test_orders.py", "exec"), example)
    shop: Any = types.ModuleType("shop")
    shop.app, shop.bank, shop.paid = example["app"], example["bank"], example["paid"]
    monkeypatch.setitem(sys.modules, "shop", shop)
    names: dict[str, Any] = {}
    exec(compile(IN_MEMORY, "docs/testing.md", "exec"), names)

    with in_memory(shop.app) as memory:
        names["test_an_order_is_paid_once_the_bank_is_open"](lambda app: memory)


def test_the_test_with_servers_can_be_imported() -> None:
    names: dict[str, Any] = {}
    exec(compile(WITH_SERVERS, "docs/testing.md", "exec"), names)

    assert callable(names["test_an_order_comes_back"])


def test_what_the_table_calls_exists() -> None:
    called = set(re.findall(r"shop\.(\w+)\(", PAGE))

    assert {"produce", "run", "advance", "consume", "records", "headers", "waiting", "stats"} <= called
    for name in called:
        assert callable(getattr(InMemory, name)), name
