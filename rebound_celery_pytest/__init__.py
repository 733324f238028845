"""pytest's plugin of rebound-celery: the fixture `rebound_in_memory`.

pytest imports this module in every run where rebound-celery is installed. So it is outside of the package, and it
imports nothing but pytest: the rest is imported by the tests that ask for the fixture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rebound_celery.testing import InMemory


@pytest.fixture
def rebound_in_memory() -> Iterator[Callable[..., InMemory]]:
    """`rebound_in_memory(app, topics=None, now_ms=None)` runs an app in memory until the test ends.

    See `rebound_celery.testing.in_memory`.
    """
    with ExitStack() as stack:

        def start(app: Any, **options: Any) -> InMemory:
            from rebound_celery.testing import in_memory

            return stack.enter_context(in_memory(app, **options))

        yield start
