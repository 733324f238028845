"""The headers of the POST that delivers a message: they are safe for every value of a Kafka header."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from rebound_celery.destinations.http_headers import request_headers
from rebound_celery.message import Message
from rebound_celery.message.address import HttpAddress
from rebound_celery.policy import Failure, RetryPolicy

MESSAGE = Message(
    id="9f1c",
    value=b"v",
    key=b"order-7",
    destination=HttpAddress("https://receiver/path"),
    attempt=2,
    policy=RetryPolicy(3, 5),
    first_failed_at=1_700_000_000_000,
)


def headers_of(*pairs: tuple[str, bytes | None], **changes: Any) -> dict[str, str]:
    return request_headers(replace(MESSAGE, headers=pairs, **changes))


def test_a_receiver_sees_the_key_the_attempt_and_the_callers_headers() -> None:
    assert headers_of(("Authorization", b"Bearer x"), ("x-trace", b"7")) == {
        "Authorization": "Bearer x",
        "X-Trace": "7",
        "User-Agent": f"rebound-celery/{version('rebound-celery')}",
        "Content-Type": "application/octet-stream",
        "X-Message-Key": "order-7",
        "Webhook-Id": "9f1c",
        "Idempotency-Key": "9f1c",
        "Rebound-Id": "9f1c",
        "Rebound-Attempt": "2",
        "Rebound-First-Failed-At": "1700000000000",
    }


def test_a_message_without_a_key_has_its_id_as_the_key_so_that_receivers_can_always_drop_duplicates() -> None:
    assert headers_of(key=None)["X-Message-Key"] == "9f1c"


@pytest.mark.parametrize("id_", ["заказ-7", "€", "a\r\n b", "a\nX-Evil: 1", "a\0b", "7 %", " "])
def test_an_id_of_any_characters_takes_the_place_of_the_key_percent_encoded(id_: str) -> None:
    headers = headers_of(key=None, id=id_)

    assert headers["X-Message-Key"] == headers["Webhook-Id"]
    assert unquote_to_bytes(headers["X-Message-Key"]) == id_.encode()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (b"order-7", "order-7"),
        (b"two words", "two words"),
        (b"", ""),
        (b"\x00\xff", "%00%FF"),
        ("Zoë".encode(), "Zo%C3%AB"),
        (b"100%", "100%25"),
        (b" edge ", "%20edge%20"),
        (b"a\r\nX-Injected: 1", "a%0D%0AX-Injected%3A%201"),
    ],
)
def test_a_key_is_ascii_as_it_is_and_percent_encoded_otherwise(key: bytes, text: str) -> None:
    assert headers_of(key=key)["X-Message-Key"] == text


@given(st.binary())
def test_every_key_can_be_read_back_from_its_header(key: bytes) -> None:
    assert unquote_to_bytes(headers_of(key=key)["X-Message-Key"]) == key


@given(
    headers=st.lists(st.tuples(st.text(), st.none() | st.binary())).map(tuple),
    text=st.text(),
    key=st.none() | st.binary(),
)
def test_no_header_name_or_value_can_split_the_request_or_break_the_client(
    headers: tuple[tuple[str, bytes | None], ...], text: str, key: bytes | None
) -> None:
    message = replace(MESSAGE, headers=headers, key=key, source=text, client_id=text, content_type=text or None)
    message = message.dead("rejected", Failure(text, text, text))

    for name, value in request_headers(message).items():
        assert name.isascii()
        assert name.isprintable()
        assert not set(name) & set(' :()<>@,;\\"/[]?={}')
        value.encode("latin-1")
        assert value.isprintable()


@pytest.mark.parametrize("value", [b"a\r\nX-Injected: 1", b"a\nb", b"a\rb", b"a\x00b", b"\x7f", b"a\x85b"])
def test_a_value_with_control_characters_is_encoded_not_sent(value: bytes) -> None:
    sent = headers_of(("x-note", value))["X-Note"]

    assert sent.isprintable()
    assert unquote_to_bytes(sent) == value


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "ü", "a\x00", "(a)", "a/b"])
def test_a_name_that_http_cannot_carry_is_left_out_and_the_rest_is_sent(name: str) -> None:
    assert headers_of((name, b"1"), ("x-note", b"2")) == headers_of(("x-note", b"2"))


@pytest.mark.parametrize(
    "name",
    [
        *["Host", "content-length", "Transfer-Encoding", "connection", "Keep-Alive", "Proxy-Connection"],
        *["TE", "Trailer", "Upgrade", "Expect", "Proxy-Authorization", "Accept-Encoding"],
    ],
)
def test_headers_that_belong_to_the_connection_are_left_out(name: str) -> None:
    assert headers_of((name, b"7")) == headers_of()


def test_a_caller_may_name_another_user_agent() -> None:
    assert headers_of(("user-agent", b"shop/1"))["User-Agent"] == "shop/1"


def test_user_and_password_of_the_url_win_over_an_authorization_of_the_callers() -> None:
    address = HttpAddress("https://user:secret@receiver/path")

    sent = headers_of(("authorization", b"Bearer x"), destination=address)

    assert sent["Authorization"] == "Basic dXNlcjpzZWNyZXQ="
    assert "secret" not in str(replace(MESSAGE, destination=address))
    assert "secret" not in repr(replace(MESSAGE, destination=address))


@pytest.mark.parametrize("name", ["rebound-attempt", "Rebound-Attempt", "REBOUND-ID", "x-message-key", "X-Message-Key"])
def test_a_callers_header_cannot_replace_one_of_rebounds(name: str) -> None:
    assert headers_of((name, b"forged")) == headers_of()


def test_a_header_without_value_is_sent_empty() -> None:
    assert headers_of(("x-null", None), ("x-empty", b""))["X-Null"] == ""


def test_of_headers_that_differ_in_case_only_one_is_sent() -> None:
    sent = headers_of(("x-trace", b"1"), ("X-TRACE", b"2"))

    assert [value for name, value in sent.items() if name.lower() == "x-trace"] == ["2"]


@pytest.mark.parametrize(
    ("headers", "content_type", "sent"),
    [
        ((), None, "application/octet-stream"),
        ((), "application/json", "application/json"),
        ((), "text/plain; charset=utf-8", "text/plain; charset=utf-8"),
        ((("content-type", b"application/avro"),), None, "application/avro"),
        ((("content-type", b""),), "application/json", "application/json"),
        ((("Content-Type", b"application/avro"),), "application/json", "application/avro"),
        ((), "text/plain\r\nX-Injected: 1", "text%2Fplain%0D%0AX-Injected%3A%201"),
        ((), "text/plain; note=é", "text/plain; note=Ã©"),
    ],
)
def test_the_content_type_is_the_originals_else_the_callers_else_bytes(
    headers: tuple[tuple[str, bytes], ...], content_type: str | None, sent: str
) -> None:
    assert headers_of(*headers, content_type=content_type)["Content-Type"] == sent


def test_a_dead_letter_tells_its_reason_with_the_stack_trace_on_one_line() -> None:
    message = MESSAGE.dead("rejected", Failure("ValueError", "Größe", "Traceback:\n  line"))

    sent = request_headers(message)

    assert sent["Rebound-Reason"] == "rejected"
    assert sent["Rebound-Exception-Class"] == "ValueError"
    assert sent["Rebound-Exception-Message"] == "Gr%C3%B6%C3%9Fe"
    assert sent["Rebound-Exception-Stacktrace"] == "Traceback%3A%0A%20%20line"
