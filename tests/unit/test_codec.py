"""The stored form of a message: the forms of all versions are read. Damaged and later forms get different errors."""

from __future__ import annotations

import enum
import hashlib
import threading
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from rebound_celery.errors import UnknownVersionError, WireFormatError
from rebound_celery.message import Message, Origin, PastAttempt
from rebound_celery.message import compression as zstd
from rebound_celery.message.address import DEAD_SET, HttpAddress, KafkaAddress
from rebound_celery.message.codec import decode, decode_many, encode, pack, seal_many
from rebound_celery.message.extensions import MAX_DEPTH
from rebound_celery.policy import Failure, RetryPolicy
from tests.fuzzing import QUICK, texts
from tests.unit.test_policy_options import policies

MESSAGE = Message(
    id="9f1c",
    value=b"\xff\x00",
    key="Zoë".encode(),
    headers=(("a", b"1"), ("a", b""), ("b", None), ("c", b"\xfe")),
    destination=KafkaAddress("orders", "k1:9092", 3),
    dead_destination=KafkaAddress("orders-dlq"),
    attempt=2,
    policy=RetryPolicy(3, 5.0),
    reason="rejected",
    failure=Failure("shop.PaymentError", "card refused", "Traceback"),
    history=(PastAttempt(1, 1_700_000_001_000, "shop.PaymentError: card refused", "consumer billing@host"),),
    group="billing",
    origin=Origin("orders", 3, 812, 1_700_000_000_000),
    first_failed_at=1_700_000_001_000,
    content_type="application/json",
    source="api",
    client_id="c-7",
)
CONTEXT = {"tries": 2}
MINIMAL = Message(id="1", value=None, destination=HttpAddress("http://r/"), attempt=1, policy=RetryPolicy(0, 1.0))

#: What version 0x10 looks like. Messages in this form lie in people's Redis: a change that this test notices needs a
#: new first byte, and code that still reads this one.
GOLDEN_PACKED = (
    b"\xdc\x00\x10\x02\xc4\x02\xff\x00\xc4\x04Zo\xc3\xab\x94\x92\xa1a\xc4\x011\x92\xa1a\xc4\x00\x92\xa1b\xc0\x92\xa1c"
    b"\xc4\x01\xfe\x94\xa6orders\x03\xcd\x03,\xcf\x00\x00\x01\x8b\xcf\xe5h\x00\xcf\x00\x00\x01\x8b\xcf\xe5k\xe8\x95"
    b"\xb1shop.PaymentError\xaccard refused\xa9Traceback\xc2\xc0\x91\x94\x01\xcf\x00\x00\x01\x8b\xcf\xe5k\xe8"
    b"\xbfshop.PaymentError: card refused\xb5consumer billing@host\xa7billing\xa8rejected\xb0application/json"
    b"\xa3api\xa3c-7\x81\xa5tries\x02\xc0\x93\x83\xa5topic\xa6orders\xa7brokers\xa7k1:9092\xa9partition\x03\x81\xa5topic"
    b"\xaaorders-dlq\x83\xa4kind\xabexponential\xabmax_retries\x03\xaabase_delay\x05"
)
#: The same, compressed with dictionary 1: version 0x11. Another zstd may compress otherwise; each must read this.
GOLDEN_COMPRESSED = bytes.fromhex(
    "11604a00bd0400640502ff00c4045a6fc3ab9492a161c4013192a161c40092a162c092a163c401fe9403cd032ccf0000018bcfe568006be895"
    "a98bcfe56be8bfb5686f7374a7a3617069a3632d3702c09383a7a9706172746974696f6e030319fc586271f232a6e3413032d0fbc606329921"
    "f1a2e688548bae37d683f4e62eaf5f79b9d3166dee09ddcec716e9fa9439347e85bbd971982e43a076542202"
)
GOLDEN_MINIMAL = bytes.fromhex("112058250100a0dc001001c0c090c0a9687474703a2f2f722f000105fc1408c00167e3c5c02c9ece1f71")
#: A dictionary that a message was compressed with never changes: messages are unreadable with another.
DICTIONARY_1 = "d581e850c6c6b7e93fd778a498743f93155a63e420b559b42fdafc1bfc3dbf4f"

numbers = st.integers(0, 2**63 - 1)
any_bytes = st.none() | st.binary()
addresses = st.sampled_from(
    [
        KafkaAddress("t"),
        KafkaAddress("t", "k:9092", 7),
        HttpAddress("https://u:p@h/p?q=1"),
        HttpAddress("http://h/é"),
        DEAD_SET,
    ]
)
pasts = st.builds(PastAttempt, st.integers(1, 101), numbers, texts, texts)
later = st.recursive(
    st.none() | st.booleans() | st.integers() | texts | st.binary(), lambda inner: st.lists(inner, max_size=3)
)
unknowns = st.dictionaries(st.text(st.characters(codec="utf-8")), later, max_size=3)
messages = st.builds(
    Message,
    id=texts,
    value=any_bytes,
    destination=addresses,
    attempt=st.integers(1, 101),
    policy=policies(),
    key=any_bytes,
    headers=st.lists(st.tuples(texts, any_bytes)).map(tuple),
    dead_destination=addresses,
    reason=st.none() | texts,
    failure=st.none() | st.builds(Failure, texts, texts, texts),
    history=st.lists(pasts, max_size=3).map(tuple),
    group=st.none() | texts,
    origin=st.none() | st.builds(Origin, texts, numbers, numbers, numbers),
    first_failed_at=st.none() | numbers,
    content_type=st.none() | texts,
    source=st.none() | texts,
    client_id=st.none() | texts,
    unknown=unknowns,
)


@QUICK
@given(messages, unknowns)
def test_every_message_and_its_context_survive_unchanged(message: Message, context: dict[str, Any]) -> None:
    assert decode(message.id, encode(message, context)) == (message, context)


@QUICK
@given(st.lists(st.tuples(messages, unknowns), max_size=20))
def test_many_messages_are_stored_and_read_as_each_of_them(pairs: list[tuple[Message, dict[str, Any]]]) -> None:
    stored = seal_many([pack(*pair) for pair in pairs])

    assert stored == [encode(message, context) for message, context in pairs]
    assert decode_many([(message.id, one) for (message, _), one in zip(pairs, stored, strict=True)]) == pairs


def test_one_damaged_message_among_many_is_an_error_in_its_place() -> None:
    good = encode(MESSAGE)
    stored = [good] * 10
    stored[3], stored[5], stored[7] = good[:-3], b"", b"\x7f" + good

    read = decode_many([("9f1c", one) for one in stored])

    assert [type(one) for one in read[3:8:2]] == [WireFormatError, WireFormatError, UnknownVersionError]
    assert [one for n, one in enumerate(read) if n not in (3, 5, 7)] == [(MESSAGE, {})] * 7


def test_many_messages_with_one_damaged_frame_are_read_one_by_one() -> None:
    good = encode(MESSAGE)

    read = decode_many([("9f1c", good)] * 9 + [("9f1c", good[:-3])])

    assert read[:9] == [(MESSAGE, {})] * 9
    assert isinstance(read[9], WireFormatError)


def test_the_packed_form_stays_as_it_is() -> None:
    assert pack(MESSAGE, CONTEXT) == GOLDEN_PACKED
    assert decode("9f1c", b"\x10" + GOLDEN_PACKED) == (MESSAGE, CONTEXT)


def test_the_compressed_form_stays_readable() -> None:
    assert decode("9f1c", GOLDEN_COMPRESSED) == (MESSAGE, CONTEXT)
    assert decode("1", GOLDEN_MINIMAL) == (MINIMAL, {})


def test_the_dictionary_of_version_0x11_stays_as_it_is() -> None:
    dictionary = zstd.resources.files(zstd.__package__) / "dictionaries" / "1.zdict"

    assert hashlib.sha256(dictionary.read_bytes()).hexdigest() == DICTIONARY_1


def test_a_message_is_not_compressed_where_that_would_make_it_longer() -> None:
    import random

    noise = replace(MINIMAL, value=random.Random(7).randbytes(200_000))

    stored = encode(noise)

    assert stored[0] == 0x10
    assert len(stored) < 200_100
    assert decode("1", stored) == (noise, {})
    assert encode(MESSAGE)[0] == 0x11


@pytest.mark.parametrize("size", [0, 1, 1_000, 5_000_000])
def test_values_of_every_size_survive(size: int) -> None:
    message = replace(MINIMAL, value=b"x" * size)

    assert decode("1", encode(message)) == (message, {})


class _Text(str):
    """Such as Django's SafeString."""


class _Bytes(bytes):
    pass


class _Number(int):
    pass


class _Word(enum.StrEnum):
    A = "a"


def test_subclasses_of_plain_types_are_stored_as_what_they_are() -> None:
    message = Message(
        _Text("1"),
        _Bytes(b"v"),
        KafkaAddress(_Text("t"), _Text("k:9092"), _Number(1)),
        _Number(2),
        RetryPolicy(_Number(3), _Number(5)),
        _Bytes(b"k"),
        ((_Text("a"), _Bytes(b"1")), (_Word.A, None)),
        source=_Word.A,
        client_id=_Text("c"),
        first_failed_at=_Number(7),
    )

    read, context = decode("1", encode(message, {"a": _Text("x"), _Text("b"): True}))

    assert (read, context) == (message, {"a": "x", "b": True})
    assert type(read.value) is bytes
    assert type(read.headers[1][0]) is str


def test_what_cannot_be_stored_in_a_context_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        encode(MINIMAL, {"a": object()})


# Versions to come


@pytest.mark.parametrize("first", [0x12, 0x20, 0x7F, 0xFF])
def test_a_later_version_says_so_and_what_to_do(first: int) -> None:
    with pytest.raises(UnknownVersionError, match=r"a later version wrote .*update the workers before the publishers"):
        decode("1", bytes([first]) + b"anything")


@pytest.mark.parametrize("stored", [b"", b"\x00", b"\x0f" + GOLDEN_PACKED, b"{}", b"\x01\x02"])
def test_what_never_was_a_version_is_damaged(stored: bytes) -> None:
    expected = UnknownVersionError if stored[:1] > b"\x11" else WireFormatError

    with pytest.raises(expected):
        decode("1", stored)


def with_parts(**parts: Any) -> bytes:
    """The stored form of MINIMAL in which some parts are others."""
    names = ["attempt", "value", "key", "headers", "origin", "first_failed_at", "failure", "history", "group", "reason"]
    names += ["content_type", "source", "client_id", "context", "more", "route"]
    values = dict(zip(names, msgspec.msgpack.decode(pack(MINIMAL)), strict=True))
    return b"\x10" + msgspec.msgpack.encode(list({**values, **parts}.values()))


ROUTE: list[Any] = [
    {"url": "http://r/"},
    {"dead_set": True},
    {"kind": "exponential", "max_retries": 0, "base_delay": 1},
]


def test_fields_of_a_later_version_are_kept_and_written_back() -> None:
    more = {"deadline": 7, "labels": ["a", b"\xff"], "é": {"x": None}}

    message, _ = decode("1", with_parts(more=more))

    assert message.unknown == more
    assert message == replace(MINIMAL, unknown=more)
    again, _ = decode("1", encode(message.failed(None, _retry(), now_ms=1, by="here")))
    assert again.unknown == more


def test_the_span_of_the_attempt_before_is_kept_beside_the_fields_of_a_later_version() -> None:
    message = replace(MINIMAL, previous_span="00-aa-bb-01", unknown={"deadline": 7})

    assert decode("1", encode(message)) == (message, {})
    older, _ = decode("1", with_parts(more={"previous_span": "00-aa-bb-01", "deadline": 7}))
    assert older == message


def _retry() -> Any:
    from rebound_celery.policy import Retry

    return Retry(1, 2)


def test_options_of_a_policy_of_a_later_version_are_kept_and_written_back() -> None:
    policy = {**ROUTE[2], "spread": 0.5}

    message, _ = decode("1", with_parts(route=[*ROUTE[:2], policy]))

    assert message.policy.to_wire() == policy
    assert decode("1", encode(message))[0].policy.to_wire() == policy


@pytest.mark.parametrize(
    "route",
    [
        [ROUTE[0], ROUTE[1], {"kind": "fixed", "delays": [1, 2]}],
        [{"queue": "orders"}, ROUTE[1], ROUTE[2]],
        [{"topic": "orders", "tombstone": True}, ROUTE[1], ROUTE[2]],
        [ROUTE[0], {"bucket": "x"}, ROUTE[2]],
    ],
)
def test_a_policy_or_a_destination_that_a_later_version_knows_leaves_the_message_in_place(route: Any) -> None:
    with pytest.raises(UnknownVersionError):
        decode("1", with_parts(route=route))


# Damage


@pytest.mark.parametrize(
    "parts",
    [
        *[{"attempt": value} for value in [None, 0, -1, 102, "1", 1.5, True, 2**70 // 2**10]],
        *[{"value": value} for value in ["text", 7, ["AA=="]]],
        *[{"headers": value} for value in [None, 7, "ab", [["name"]], [["name", b"", b""]], [[7, b""]], [["a", "b"]]]],
        *[{"origin": value} for value in [7, [], ["orders", 1, 2], ["orders", 1, 2, "3"]]],
        *[{"failure": value} for value in [7, ["one"], [1, 2]]],
        *[{"history": value} for value in [None, 7, [[1, 2]], [[1, 2, "", 3]], [7]]],
        *[{name: 7} for name in ["group", "reason", "content_type", "source", "client_id", "context", "more"]],
        *[{name: {7: 1}} for name in ["context", "more"]],
        {"more": {"previous_span": 7}},
        *[{"route": value} for value in [None, [], {}, ROUTE[:2], [*ROUTE, 7], [None, None, None], "abc"]],
        {"route": [{"topic": "a b"}, *ROUTE[1:]]},
        {"route": [{"url": "ftp://x"}, *ROUTE[1:]]},
        {"route": [{"topic": 7}, *ROUTE[1:]]},
        {"route": [{}, *ROUTE[1:]]},
        {"route": [*ROUTE[:2], {"kind": "exponential"}]},
        {"route": [*ROUTE[:2], {"kind": "exponential", "max_retries": 101, "base_delay": 5}]},
        {"route": [*ROUTE[:2], {"kind": 7}]},
        {"an element too many": 1},
    ],
    ids=repr,
)
def test_a_damaged_part_is_reported_as_damage_and_never_as_another_error(parts: dict[str, Any]) -> None:
    with pytest.raises(WireFormatError, match="damaged"):
        decode("1", with_parts(**parts))


@pytest.mark.parametrize("part", ["context", "more"])
def test_deep_nesting_is_damage(part: str) -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]

    with pytest.raises(WireFormatError, match="nested too deeply"):
        decode("1", with_parts(**{part: {"a": value}}))


@pytest.mark.parametrize(
    "frame",
    [
        zstandard.compress(b"\0" * 1000)[4:-4],
        b"",
        b"\x00",
        # It says that it becomes 2**63 bytes, or 600 MB, or does not say how many.
        b"\xe0" + b"\xff" * 7 + b"\x7f" + b"\0" * 20,
        b"\xa0" + (600 * 2**20).to_bytes(4, "little") + b"\0" * 20,
        zstandard.ZstdCompressor(write_content_size=False).compress(b"\0" * 1000)[4:],
        # Two frames in one.
        GOLDEN_COMPRESSED[1:] + zstandard.compress(b"\0" * 1000),
        GOLDEN_COMPRESSED[1:] + b"\0",
    ],
    ids=range(8),
)
def test_a_damaged_or_endless_frame_is_damage_and_takes_no_memory(frame: bytes) -> None:
    with pytest.raises(WireFormatError):
        decode("1", b"\x11" + frame)
    # The context that met it serves the next.
    assert decode("9f1c", GOLDEN_COMPRESSED) == (MESSAGE, CONTEXT)


def test_threads_may_encode_and_decode_at_once() -> None:
    found: list[bool] = []

    def work() -> None:
        for n in range(300):
            message = replace(MESSAGE, value=b"%d" % n * 50)
            found.append(decode("9f1c", encode(message)) == (message, {}))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [True] * 1800
