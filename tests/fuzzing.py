"""The common parts of the fuzz tests: their budget, and strategies for damaged, forged and wrongly shaped data."""

from __future__ import annotations

import json
import zlib
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from rebound_celery.schedule.transport import celery_form as stored

#: The same examples each time, so that a failure of CI is one of the laptop too.
QUICK = settings(derandomize=True, max_examples=200, deadline=None, database=None)
#: Where an example costs milliseconds: a server is asked.
SLOW = settings(
    QUICK, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

#: Any text at all, lone surrogates too: JSON can hold them, and UTF-8 cannot.
texts = st.text(st.characters(), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 1, 2**31, 2**63, 2**70, 10**400])
    | st.floats()
    | texts
)
#: Whatever JSON can hold, nan and infinity among it, as Python's parser reads it.
jsons = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=8
)
#: Too deep for a parser that calls itself.
DEEP = "[" * 100_000 + "]" * 100_000


@st.composite
def changed(draw: st.DrawFn, whole: dict[str, Any]) -> Any:
    """A copy of a JSON object in which some values, at any depth, are left out or are something else."""
    copy = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 3))):
        place: Any = copy
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            inner = place[key]
            if isinstance(inner, dict | list) and inner and draw(st.booleans()):
                place = inner
                continue
            if draw(st.booleans()):
                place[key] = draw(jsons)
            else:
                del place[key]
            break
    return copy


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes with some of them cut out, put in, or changed."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        data[start : start + draw(st.integers(0, 6))] = draw(st.binary(max_size=6))
    return bytes(data)


def stored_form(text: str) -> bytes:
    """The schedule's stored form of any text at all."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, -15, 8, zlib.Z_DEFAULT_STRATEGY, stored.DICTIONARY)
    return stored.VERSION + compressor.compress(text.encode()) + compressor.flush()
