"""What the options of a destination do to its requests, and which addresses are not connected to."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace
from standardwebhooks import Webhook

from rebound_celery.destinations import Delivered, Failed, Held, Outcome, Rejected, Underway
from rebound_celery.destinations.http import HttpDestination
from rebound_celery.destinations.http_plan import Plans
from rebound_celery.http_options import HttpTable
from rebound_celery.message.address import HttpAddress
from tests.integration.test_http_answers import Answer, Receiver, make_message, say, whole

KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

Open = Callable[..., HttpDestination]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def open_destination() -> Iterator[Open]:
    """`open_destination(strict=True, ...)` has a destination with these options for every URL."""
    with contextlib.ExitStack() as stack:

        def open_it(destinations: dict[str, Any] | None = None, **options: Any) -> HttpDestination:
            table = HttpTable({"*": options} if destinations is None else destinations)
            destination = HttpDestination(5, 10, Plans(table))
            stack.callback(destination.close)
            return destination

        yield open_it


def send(destination: HttpDestination, url: str, *, value: bytes = b"v", public_only: bool = False) -> Outcome:
    message = replace(make_message(url, value), destination=HttpAddress(url, public_only))
    (outcome,) = destination.send([message])
    assert not isinstance(outcome, Underway)
    return outcome


def fields_of(head: bytes) -> dict[str, str]:
    return {name.lower(): text for name, _, text in (line.partition(": ") for line in head.decode().split("\r\n")[1:])}


def test_method_headers_content_type_and_query_are_sent(receiver: Receiver, open_destination: Open) -> None:
    destination = open_destination(
        method="PUT", headers={"X-Api-Key": "k"}, content_type="application/x-own", query={"v": "2"}
    )

    outcome = send(destination, f"{receiver.url}a?b=1")

    head = receiver.heads[0]
    assert outcome == Delivered(f"{receiver.url}a answered 204")
    assert head.startswith(b"PUT /a?b=1&v=2 HTTP/1.1\r\n")
    assert fields_of(head)["x-api-key"] == "k"
    assert fields_of(head)["content-type"] == "application/x-own"


def test_a_receiver_with_the_library_of_standard_webhooks_accepts_what_is_sent(
    receiver: Receiver, open_destination: Open
) -> None:
    body = json.dumps({"name": "Zoë"}).encode()

    send(open_destination(secret=KEY), receiver.url, value=body)

    assert Webhook(KEY).verify(body, fields_of(receiver.heads[0])) == {"name": "Zoë"}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 415, 422])
def test_with_strict_a_receivers_refusal_is_final_and_without_it_is_not(
    status: int, receiver: Receiver, open_destination: Open
) -> None:
    receiver.answer = say(whole(status, b"why"))

    assert send(open_destination(), receiver.url) == Failed(
        f"POST {receiver.url} answered {status}: why", None, status, True
    )
    assert send(open_destination(strict=True), receiver.url) == Rejected(
        f"POST {receiver.url} answered {status}: why", status
    )


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 302])
def test_with_strict_what_may_pass_is_still_retried(status: int, receiver: Receiver, open_destination: Open) -> None:
    receiver.answer = say(whole(status, b"why"))

    assert isinstance(send(open_destination(strict=True), receiver.url), Failed)


def test_a_wait_that_a_receiver_asks_for_is_bounded_and_the_error_says_so(
    receiver: Receiver, open_destination: Open
) -> None:
    receiver.answer = say(whole(503, b"", b"Retry-After: 31536000"))

    usual, short = (send(open_destination(**options), receiver.url) for options in ({}, {"max_retry_after": 60}))

    assert isinstance(usual, Failed)
    assert isinstance(short, Failed)
    assert usual.retry_after_s == 86_400
    assert "asks to wait 31536000 s (it is 86400 s at most)" in usual.error
    assert short.retry_after_s == 60


def test_the_history_has_room_for_the_answer_however_long_the_url_is(
    receiver: Receiver, open_destination: Open
) -> None:
    receiver.answer = say(whole(500, b"the database is away"))

    outcome = send(open_destination(), receiver.url + "x" * 4_000)

    assert isinstance(outcome, Failed)
    assert "answered 500: the database is away" in f"rebound_celery.errors.AttemptFailedError: {outcome.error}"[:200]


def redirects(*locations: str, status: int = 307) -> Answer:
    left = list(locations)

    def answer(connection: socket.socket) -> None:
        location = left.pop(0) if left else None
        head = whole(204, b"") if location is None else whole(status, b"moved", b"Location: " + location.encode())
        connection.sendall(head)

    return answer


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_followed_as_often_as_allowed_with_the_same_method_body_and_headers(
    status: int, receiver: Receiver, open_destination: Open
) -> None:
    receiver.answer = redirects("/b", f"{receiver.url}c?d=e#f", status=status)

    outcome = send(open_destination(max_redirects=2, headers={"X-Api-Key": "k"}), f"{receiver.url}a", value=b"")

    assert isinstance(outcome, Delivered)
    assert [head.split(b"\r\n")[0] for head in receiver.heads] == [
        b"POST /a HTTP/1.1",
        b"POST /b HTTP/1.1",
        b"POST /c?d=e HTTP/1.1",
    ]
    assert all(fields_of(head)["x-api-key"] == "k" for head in receiver.heads)
    assert len(receiver.open) == 1


def test_redirects_end_where_the_allowed_number_ends(receiver: Receiver, open_destination: Open) -> None:
    receiver.answer = redirects(*["/again"] * 20)

    outcome = send(open_destination(max_redirects=3), receiver.url)

    assert isinstance(outcome, Failed)
    assert "a redirect to /again, and this one is not followed" in outcome.error
    assert receiver.requests == 4


def test_a_redirect_to_something_else_is_not_followed(receiver: Receiver, open_destination: Open) -> None:
    receiver.answer = redirects("/b", status=303)

    assert isinstance(send(open_destination(max_redirects=3), receiver.url), Failed)
    assert receiver.requests == 1


def test_another_host_is_not_told_what_is_meant_for_the_first_one(receiver: Receiver, open_destination: Open) -> None:
    other = Receiver()
    receiver.answer = redirects(other.url)
    url = receiver.url.replace("http://", "http://user:pw@")

    outcome = send(open_destination(max_redirects=1, headers={"X-Api-Key": "k"}, secret=KEY), url, value=b"1")

    assert isinstance(outcome, Delivered)
    assert {"authorization", "x-api-key"} <= fields_of(receiver.heads[0]).keys()
    assert not {"authorization", "x-api-key"} & fields_of(other.heads[0]).keys()
    assert Webhook(KEY).verify(b"1", fields_of(other.heads[0])) == 1
    other.close()


def test_a_private_address_is_refused_for_good_and_nothing_is_sent(receiver: Receiver, open_destination: Open) -> None:
    for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0"):
        url = f"http://{host}:{receiver.port}/"
        outcome = send(open_destination(), url, public_only=True)
        assert isinstance(outcome, Rejected), (host, outcome)
        assert "has no public address" in outcome.error
        assert isinstance(send(open_destination(public_only=True), url), Rejected)
    assert receiver.requests == 0
    assert not receiver.open


@pytest.mark.parametrize(
    "host",
    [
        *("10.0.0.1", "100.100.100.200", "169.254.169.254", "168.63.129.16", "192.0.0.192", "192.0.0.9", "224.0.0.1"),
        *("[::1]", "[fd00:ec2::254]", "[fe80::1]", "[64:ff9b::c000:c0]", "[2002:a9fe:a9fe::]", "[3fff::1]"),
    ],
)
def test_metadata_services_and_private_networks_are_refused_whatever_python_knows_of_them(
    host: str, open_destination: Open
) -> None:
    assert isinstance(send(open_destination(), f"http://{host}/latest", public_only=True), Rejected)


def test_an_operator_can_allow_a_network_or_a_destination(receiver: Receiver, open_destination: Open) -> None:
    allowed = open_destination(allowed_networks=["127.0.0.0/8"])
    trusted = open_destination({receiver.url + "*": {"public_only": False}, "*": {"public_only": True}})

    assert isinstance(send(allowed, receiver.url, public_only=True), Delivered)
    assert isinstance(send(trusted, receiver.url, public_only=True), Delivered)
    assert isinstance(send(trusted, receiver.url.replace("127.0.0.1", "127.0.0.2")), Rejected)


def test_a_redirect_to_a_private_address_is_refused(receiver: Receiver, open_destination: Open) -> None:
    receiver.answer = redirects(f"http://127.0.0.2:{receiver.port}/")
    destination = open_destination(max_redirects=3, allowed_networks=["127.0.0.1/32"])

    outcome = send(destination, receiver.url, public_only=True)

    assert isinstance(outcome, Rejected)
    assert receiver.requests == 1


def test_a_name_whose_addresses_change_after_a_look_up_gains_nothing(
    receiver: Receiver, open_destination: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def addresses(*_: Any, **__: Any) -> list[Any]:
        host = looked_up.pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, receiver.port))]

    looked_up = ["127.0.0.1", "127.0.0.2"]
    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    receiver.answer = lambda connection: (say(whole(200, b"", b"Connection: close"))(connection), connection.close())  # type: ignore[assignment, return-value]
    destination = open_destination(allowed_networks=["127.0.0.1/32"])
    url = f"http://rebinding.test:{receiver.port}/"

    first, second = (send(destination, url, public_only=True) for _ in range(2))

    assert isinstance(first, Delivered)
    assert isinstance(second, Rejected)
    assert receiver.requests == 1


def test_an_open_connection_of_a_trusted_message_does_not_serve_one_that_is_guarded(
    receiver: Receiver, open_destination: Open
) -> None:
    destination = open_destination()

    assert isinstance(send(destination, receiver.url), Delivered)
    assert isinstance(send(destination, receiver.url, public_only=True), Rejected)


def test_an_open_connection_to_an_allowed_network_does_not_serve_a_path_for_which_it_is_not(
    receiver: Receiver, open_destination: Open
) -> None:
    destination = open_destination({receiver.url + "own/*": {"allowed_networks": ["127.0.0.0/8"]}, "*": {}})

    assert isinstance(send(destination, receiver.url + "own/hook", public_only=True), Delivered)
    assert isinstance(send(destination, receiver.url + "other", public_only=True), Rejected)


def test_a_read_time_out_ends_a_request_whose_receiver_says_nothing(receiver: Receiver, open_destination: Open) -> None:
    receiver.answer = lambda _: receiver.released.wait(20)  # type: ignore[assignment, return-value]

    for options in ({"read_timeout": 0.3}, {"timeout": 0.3}):
        began = time.monotonic()
        outcome = send(open_destination(**options), receiver.url)
        assert isinstance(outcome, Failed)
        assert "timed out" in outcome.error
        assert time.monotonic() - began < 5


def test_the_rate_of_a_host_is_kept_and_other_hosts_do_not_wait(receiver: Receiver, open_destination: Open) -> None:
    other = Receiver()
    destination = open_destination({receiver.url + "*": {"rate": 20}})
    messages = [make_message(receiver.url)] * 21 + [make_message(other.url)] * 20
    times: list[float] = []
    receiver.answer = lambda connection: (times.append(time.monotonic()), say(whole(204, b""))(connection))[0]
    other_times: list[float] = []
    other.answer = lambda connection: (other_times.append(time.monotonic()), say(whole(204, b""))(connection))[0]

    outcomes = destination.send(messages)

    assert all(isinstance(outcome, Delivered) for outcome in outcomes)
    assert times[-1] - times[0] >= 0.9
    assert other_times[-1] < times[-1]
    other.close()


def test_a_host_has_as_many_requests_at_once_as_its_concurrency(receiver: Receiver, open_destination: Open) -> None:
    running: list[int] = []
    most: list[int] = []

    def answer(connection: socket.socket) -> None:
        running.append(1)
        most.append(len(running))
        time.sleep(0.2)
        running.pop()
        connection.sendall(whole(204, b""))

    receiver.answer = answer
    open_destination(concurrency=20).send([make_message(receiver.url)] * 40)
    assert max(most) == 20
    most.clear()
    open_destination(concurrency=1).send([make_message(receiver.url)] * 3)
    assert max(most) == 1


def test_a_host_that_hangs_holds_no_job_and_its_requests_end_beside_the_jobs(receiver: Receiver) -> None:
    hanging = Receiver()
    hanging.answer = lambda connection: (hanging.released.wait(20), say(whole(204, b""))(connection))[0]  # type: ignore[assignment, return-value]
    destination = HttpDestination(5, 10, None, 0.3)
    slow, quick = make_message(hanging.url, b""), make_message(receiver.url, b"")

    began = time.monotonic()
    first = destination.send([slow, quick])
    second = destination.send([quick, *[slow] * 10])
    third = destination.send([slow, quick])
    took_s = time.monotonic() - began

    assert took_s < 5
    assert [type(outcome) for outcome in first] == [Underway, Delivered]
    assert isinstance(second[0], Delivered)
    assert [type(outcome) for outcome in second[1:]].count(Underway) == 7, "as many as may run at once"
    assert [type(outcome) for outcome in second[1:]].count(Held) == 3
    assert [type(outcome) for outcome in third] == [Held, Delivered]
    assert isinstance(first[0], Underway)
    assert first[0].within_s > 5
    hanging.released.set()
    assert first[0].outcome.result(5) == Delivered(f"{hanging.url} answered 204")
    destination.close()
    hanging.close()
