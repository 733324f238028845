"""A process that has no file descriptors or threads left uses up no attempt, and delivers again when it has some."""

from __future__ import annotations

import errno
import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rebound_celery.destinations import Delivered, Unavailable
from rebound_celery.destinations.http import HttpDestination
from tests.integration.test_http_answers import Receiver, say, send, whole
from tests.waiting import wait_until

TIMEOUT = 1.0
#: More than a host may have at once.
POSTS = 20


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.answer = say(whole(200, b""))
    yield receiver
    receiver.close()


@pytest.fixture
def destination() -> Iterator[HttpDestination]:
    destination = HttpDestination(TIMEOUT, TIMEOUT)
    yield destination
    destination.close()


def by_name(receiver: Receiver) -> str:
    """The URL of a receiver with a name that is looked up."""
    return receiver.url.replace("127.0.0.1", "localhost")


def no_descriptors(*_: object, **__: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


def without_threads(named: str) -> Callable[[threading.Thread], None]:
    """Thread.start for a process in which no thread of this name can be started."""
    real = threading.Thread.start

    def start(self: threading.Thread) -> None:
        if self.name.startswith(named):
            raise RuntimeError("can't start new thread")
        real(self)

    return start


@contextmanager
def no_further_descriptors() -> Iterator[None]:
    """Let this process open no more files and sockets."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/dev/fd").iterdir())
    taken = [os.open(os.devnull, os.O_RDONLY)]
    while taken[-1] < highest:
        taken.append(os.open(os.devnull, os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in taken:
            os.close(descriptor)


def test_a_host_that_is_not_found_for_want_of_a_file_descriptor_uses_up_no_attempt(
    receiver: Receiver, destination: HttpDestination
) -> None:
    """The system says then that it does not know the name."""
    with no_further_descriptors():
        (first,) = send(destination, by_name(receiver))
    (second,) = send(destination, by_name(receiver))

    assert isinstance(first, Unavailable)
    assert "Too many open files" in first.error
    assert isinstance(second, Delivered)


def test_connections_that_no_post_uses_are_closed_when_a_post_lacks_a_file_descriptor(
    receiver: Receiver, destination: HttpDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(destination, *[receiver.url] * 4)
    wait_until(lambda: len(receiver.open) > 0)
    with monkeypatch.context() as shortage:
        shortage.setattr(socket, "getaddrinfo", no_descriptors)
        (outcome,) = send(destination, by_name(receiver))

    assert isinstance(outcome, Unavailable)
    wait_until(lambda: not receiver.open)
    assert [type(outcome) for outcome in send(destination, *[receiver.url] * POSTS)] == [Delivered] * POSTS


@pytest.mark.parametrize("place", ["socket", "getaddrinfo"])
def test_a_post_without_a_file_descriptor_waits_and_uses_up_no_attempt(
    place: str, receiver: Receiver, destination: HttpDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as shortage:
        shortage.setattr(socket, place, no_descriptors)
        (first,) = send(destination, by_name(receiver))
    (second,) = send(destination, by_name(receiver))

    assert isinstance(first, Unavailable)
    assert "Too many open files" in first.error
    assert isinstance(second, Delivered)


def test_a_host_is_looked_up_again_after_a_look_up_that_had_no_thread(
    receiver: Receiver, destination: HttpDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as shortage:
        shortage.setattr(threading.Thread, "start", without_threads("rebound-look-up"))
        (first,) = send(destination, by_name(receiver))
    (second,) = send(destination, by_name(receiver))

    assert isinstance(first, Unavailable)
    assert "can't start new thread" in first.error
    assert isinstance(second, Delivered)


def test_posts_for_which_no_thread_can_be_started_wait_and_are_posted_once(
    receiver: Receiver, destination: HttpDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as shortage:
        shortage.setattr(threading.Thread, "start", without_threads("rebound-http"))
        none = send(destination, *[receiver.url] * POSTS)
    assert [type(outcome) for outcome in none] == [Unavailable] * POSTS

    assert [type(outcome) for outcome in send(destination, *[receiver.url] * POSTS)] == [Delivered] * POSTS
    assert receiver.requests == POSTS


def test_one_thread_that_could_be_started_makes_all_posts(
    receiver: Receiver, destination: HttpDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as shortage:
        real, started = threading.Thread.start, list[str]()

        def start(self: threading.Thread) -> None:
            if self.name.startswith("rebound-http"):
                if started:
                    raise RuntimeError("can't start new thread")
                started.append(self.name)
            real(self)

        shortage.setattr(threading.Thread, "start", start)
        outcomes = send(destination, *[receiver.url] * 5)

    assert [type(outcome) for outcome in outcomes] == [Delivered] * 5
    assert receiver.requests == 5
