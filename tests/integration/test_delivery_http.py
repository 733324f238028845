"""Delivery over HTTP by a real worker to a real receiver: the request, the successful answers, and the failures."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from celery import Celery
from msgspec.structs import replace

from rebound_celery import Message, Rebound
from rebound_celery.embedded import free_port
from rebound_celery.message.address import DEAD_SET, HttpAddress, KafkaAddress
from rebound_celery.policy import RetryPolicy
from tests.acceptance.apps.worker import running_worker
from tests.waiting import wait_until


@dataclass
class Post:
    """A POST as the receiver got it."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float


class Receiver:
    """An HTTP server that keeps the posts and answers by path: each answer of a list once, then the last for ever."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.answers: dict[str, list[Callable[[BaseHTTPRequestHandler], None]]] = defaultdict(lambda: [status(204)])
        self.release = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.posts.append(Post(self.path, dict(self.headers.items()), body, time.monotonic()))
                answers = receiver.answers[self.path]
                (answers.pop(0) if len(answers) > 1 else answers[0])(self)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            #: The connections that may wait to be accepted: under load five are too few for a test that opens twenty.
            request_queue_size = 64

            def handle_error(self, *_: Any) -> None:
                """A client that went away is part of the test."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def to(self, path: str) -> list[Post]:
        return [post for post in self.posts if post.path == path]

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


def status(code: int, body: bytes = b"", **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        if code not in (204, 304):
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if code not in (204, 304):
            handler.wfile.write(body)

    return answer


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def rebound(redis_url: str) -> Iterator[Rebound]:
    """A Rebound whose app has a running worker."""
    app = Celery("shop", broker=redis_url, set_as_current=False)
    rebound = Rebound(app, http_connect_timeout=1, http_timeout=0.5, outage_delay=0.2, outage_max_delay=0.2)
    with running_worker(app):
        yield rebound


def make_message(url: str, **changes: Any) -> Message:
    message = Message(
        id="order-7",
        value=b"v",
        destination=HttpAddress(url),
        dead_destination=DEAD_SET,
        attempt=4,
        policy=RetryPolicy(3, 1),
    )
    return replace(message, **changes)


def dead_letters(rebound: Rebound, count: int) -> list[Message]:
    wait_until(lambda: len(rebound.dead_set) >= count, timeout=15, message=f"{count} dead letters")
    return list(rebound.dead_set)


def test_a_post_carries_body_key_content_type_and_rebounds_headers(rebound: Rebound, receiver: Receiver) -> None:
    url = f"{receiver.url}/hook?a=1"

    rebound.schedule_retry(url, {"n": 7}, id="order-7", key="k-7", headers={"x-trace": "t"}, base_delay=1, source="api")

    (post,) = wait_until(lambda: receiver.posts, timeout=10)
    assert (post.path, post.body) == ("/hook?a=1", b'{"n":7}')
    expected = {
        "Content-Type": "application/json",
        "Content-Length": "7",
        "X-Message-Key": "k-7",
        "X-Trace": "t",
        "Rebound-Id": "order-7",
        "Rebound-Attempt": "2",
        "Rebound-Source": "api",
    }
    assert {name: post.headers.get(name) for name in expected} == expected
    assert "Rebound-First-Failed-At" in post.headers


@pytest.mark.parametrize("value", [None, b""])
def test_a_message_without_value_is_posted_with_an_empty_body(
    value: bytes | None, rebound: Rebound, receiver: Receiver
) -> None:
    rebound.store([(make_message(receiver.url, value=value), 0)])

    (post,) = wait_until(lambda: receiver.posts)
    assert (post.body, post.headers["Content-Length"]) == (b"", "0")


def test_binary_is_posted_byte_for_byte(rebound: Rebound, receiver: Receiver) -> None:
    value = bytes(range(256)) * 4000

    rebound.store([(make_message(receiver.url, value=value, key=b"\x00\xff"), 0)])

    (post,) = wait_until(lambda: receiver.posts)
    assert post.body == value
    assert post.headers["X-Message-Key"] == "%00%FF"
    assert post.headers["Content-Type"] == "application/octet-stream"


def test_any_2xx_is_success_and_ends_it(rebound: Rebound, receiver: Receiver) -> None:
    for code in (200, 201, 202, 204, 299):
        receiver.answers[f"/{code}"] = [status(code, b"fine")]
    receiver.answers["/huge"] = [status(200, b"x" * 5_000_000)]
    paths = {"/200", "/201", "/202", "/204", "/299", "/huge"}

    rebound.store([(make_message(receiver.url + path, id=path), 0) for path in paths])
    rebound.store([(make_message(f"{receiver.url}/later", id="later"), _now_ms() + 1000)])

    wait_until(lambda: receiver.to("/later"), timeout=10)
    assert sorted(post.path for post in receiver.posts) == sorted([*paths, "/later"])
    assert len(rebound.dead_set) == 0


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_whatever_is_no_2xx_is_a_failed_attempt_with_its_reason_in_bounded_text(
    rebound: Rebound, receiver: Receiver
) -> None:
    receiver.answers |= {
        "/moved": [status(302, Location=f"{receiver.url}/elsewhere")],
        "/not-modified": [status(304)],
        "/missing": [status(404, "nicht gefunden: ö".encode())],
        "/broken": [status(500, b"x" * 1_000_000)],
        "/binary": [status(503, b"\x00\xff\xfe")],
        "/hang-up": [hang_up],
        "/silent": [lambda _handler: receiver.release.wait(30)],  # type: ignore[dict-item, return-value]
    }
    urls = {path[1:]: f"{receiver.url}{path}" for path in list(receiver.answers)}
    urls["refused"] = f"http://127.0.0.1:{free_port()}/"
    urls["unknown-host"] = "http://host.invalid/"
    urls["no-tls"] = f"https://127.0.0.1:{receiver.server.server_port}/"

    rebound.store([(make_message(url, id=name), 0) for name, url in urls.items()])

    letters = {letter.id: letter for letter in dead_letters(rebound, len(urls))}
    assert letters.keys() == urls.keys()
    assert {letter.reason for letter in letters.values()} == {"retries-exhausted"}
    texts = {name: letter.failure.message for name, letter in letters.items() if letter.failure}
    for name, part in {
        "moved": "answered 302",
        "not-modified": "answered 304",
        "missing": "answered 404: nicht gefunden: ö",
        "broken": "answered 500: xxx",
        "binary": "answered 503",
        "silent": "timed out",
        "refused": "refused",
    }.items():
        assert part in texts[name], texts[name]
    assert all(text.startswith("POST http") and len(text) <= 1000 for text in texts.values())
    assert receiver.to("/elsewhere") == []
    assert len(receiver.to("/silent")) == 1


def test_a_failed_delivery_is_tried_again_with_growing_delays_and_attempts(
    rebound: Rebound, receiver: Receiver
) -> None:
    receiver.answers["/hook"] = [status(500), status(500), status(204)]

    started = time.monotonic()
    rebound.schedule_retry(f"{receiver.url}/hook", b"v", max_retries=3, base_delay=1, key="k")
    posts = wait_until(lambda: len(receiver.posts) >= 3 and receiver.posts, timeout=20)

    assert [post.headers["Rebound-Attempt"] for post in posts] == ["2", "3", "4"]
    assert len({post.headers["Rebound-Id"] for post in posts}) == 1
    assert {(post.body, post.headers["X-Message-Key"]) for post in posts} == {(b"v", "k")}
    times = [started, *(post.at for post in posts)]
    delays = [later - earlier for earlier, later in itertools.pairwise(times)]
    # Redis and the worker keep milliseconds of the wall clock.
    assert all(delay >= least - 0.005 for delay, least in zip(delays, (1, 2, 4), strict=True)), delays


def test_a_receiver_that_refuses_to_the_end_sends_it_to_the_dead_letter_topic(
    rebound: Rebound, receiver: Receiver, topic: str, kafka_brokers: str, read_topic: Callable[..., list[Any]]
) -> None:
    receiver.answers["/hook"] = [status(500, b"out of order")]
    dead = KafkaAddress(topic, brokers=kafka_brokers)
    message = make_message(f"{receiver.url}/hook", key=b"k", headers=(("a", b"1"), ("a", b"")), dead_destination=dead)

    rebound.store([(message, 0)])

    (letter,) = read_topic(topic, 1)
    headers = dict(letter.headers)
    assert (letter.value, letter.key) == (b"v", b"k")
    assert [pair for pair in letter.headers if pair[0] == "a"] == [("a", b"1"), ("a", b"")]
    assert headers["rebound-reason"] == b"retries-exhausted"
    assert headers["rebound-attempt"] == b"4"
    assert headers["rebound-exception-class"] == b"rebound_celery.errors.AttemptFailedError"
    assert headers["rebound-exception-message"].endswith(b"/hook answered 500: out of order")
    assert len(receiver.posts) == 1


def test_a_dead_letter_that_its_receiver_refuses_waits_there_until_it_is_taken(
    rebound: Rebound, receiver: Receiver
) -> None:
    receiver.answers["/dead"] = [status(503), hang_up, status(503), status(204)]
    message = make_message(f"{receiver.url}/hook", dead_destination=HttpAddress(f"{receiver.url}/dead"))

    rebound.store([(message.dead("rejected"), 0)])

    posts = wait_until(lambda: len(receiver.to("/dead")) >= 4 and receiver.to("/dead"), timeout=15)
    assert {post.headers["Rebound-Reason"] for post in posts} == {"rejected"}
    assert {post.headers["Rebound-Attempt"] for post in posts} == {"4"}
    assert receiver.to("/hook") == []


def test_a_slow_receiver_does_not_hold_up_the_others(rebound: Rebound, receiver: Receiver) -> None:
    receiver.answers["/slow"] = [lambda _handler: receiver.release.wait(30)]  # type: ignore[list-item, return-value]

    rebound.store([(make_message(f"{receiver.url}/slow", id="slow"), 0)])
    wait_until(lambda: receiver.to("/slow"))
    rebound.store([(make_message(f"{receiver.url}/quick", id=f"quick-{n}"), 0) for n in range(20)])

    wait_until(lambda: len(receiver.to("/quick")) == 20, timeout=5)
