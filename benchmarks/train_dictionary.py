"""Trains the dictionary that compresses stored messages, with made-up messages of many kinds.

    python -m benchmarks.train_dictionary rebound_celery/message/dictionaries/2.zdict

The same samples and the same zstd give the same dictionary. A stored message can be read only with its own dictionary.
So a new dictionary gets a new number, and a new first byte in `message/codec.py`. Without a file name, the script
prints the compression of the package's dictionary on samples that were not used to train it.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import zstandard

from rebound_celery.message import Message, Origin, PastAttempt
from rebound_celery.message.address import DEAD_SET, Address, HttpAddress, KafkaAddress
from rebound_celery.message.codec import encode, pack
from rebound_celery.policy import Failure, RetryPolicy


def _words(text: str) -> list[str]:
    return text.split()


SAMPLES = 12_000
SIZE = 8 * 1024
SEED = 20_240_607

#: Parameters of the training. With fixed ones it does not search for them, which takes minutes and varies.
SEGMENT, MATCH = 64, 8

TOPICS = [
    "orders",
    "payments",
    "invoices",
    "shipments",
    "customers",
    "inventory",
    "emails",
    "user-events",
    "audit-log",
    "clicks",
]
PREFIXES = ["", "", "prod.", "shop.", "com.example.", "team-a."]
GROUPS = ["billing", "orders-service", "shipping", "payment-worker", "notifications", "analytics-consumer"]
WORDS = [
    "new",
    "pending",
    "paid",
    "failed",
    "shipped",
    "cancelled",
    "refunded",
    "created",
    "updated",
    "deleted",
    "active",
    "blocked",
    "default",
    "web",
]
NAMES = [
    "Anna",
    "Ben",
    "Carla",
    "David",
    "Elif",
    "Farid",
    "Grace",
    "Hugo",
    "Ines",
    "Jonas",
    "Kim",
    "Lea",
    "Marek",
    "Nora",
    "Omar",
    "Petra",
    "Zoë",
    "Søren",
]
CITIES = [
    "Berlin",
    "Paris",
    "London",
    "Madrid",
    "Oslo",
    "Wien",
    "Zürich",
    "Praha",
    "Lisboa",
    "Roma",
    "Dublin",
    "Helsinki",
]
ERRORS = [
    ("ValueError", "invalid literal for int() with base 10: 'n/a'"),
    ("KeyError", "'customer_id'"),
    ("TypeError", "unsupported operand type(s) for +: 'int' and 'NoneType'"),
    ("TimeoutError", "timed out"),
    ("ConnectionRefusedError", "[Errno 111] Connection refused"),
    ("ConnectionResetError", "[Errno 104] Connection reset by peer"),
    ("RuntimeError", "the service is not available"),
    ("shop.errors.PaymentError", "card refused"),
    ("json.decoder.JSONDecodeError", "Expecting value: line 1 column 1 (char 0)"),
    ("requests.exceptions.ConnectionError", "HTTPSConnectionPool(host='api.example.com', port=443): Max retries"),
    ("requests.exceptions.ReadTimeout", "HTTPSConnectionPool(host='api.example.com', port=443): Read timed out."),
    ("httpx.HTTPStatusError", "Server error '503 Service Unavailable' for url 'https://api.example.com/v1/orders'"),
    ("sqlalchemy.exc.OperationalError", "(psycopg2.OperationalError) could not connect to server"),
    ("psycopg2.errors.UniqueViolation", 'duplicate key value violates unique constraint "orders_pkey"'),
    ("django.db.utils.IntegrityError", "null value in column violates not-null constraint"),
    ("redis.exceptions.ConnectionError", "Error 111 connecting to localhost:6379. Connection refused."),
    ("rebound_celery.errors.AttemptFailedError", "POST https://hooks.example.com/orders answered 500: Internal Server"),
    ("rebound_celery.errors.RejectedError", "kafka:orders at kafka:9092: [Error 10] MessageSizeTooLargeError"),
]
STACK = """Traceback (most recent call last):
  File "/usr/lib/python3/site-packages/rebound_celery/consumer/workers.py", line 62, in _handle
    self._handler(job.record)
  File "/app/shop/handlers.py", line {line}, in handle
    raise {name}({text!r})
{name}: {text}
"""


class Samples:
    """Makes messages. The same seed makes the same messages."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def message(self) -> Message:
        pick = self._random.random
        now_ms = 1_700_000_000_000 + self._random.randrange(10**11)
        attempt = self._random.choice([2, 2, 2, 3, 3, 4, 5, 8])
        http = pick() < 0.2
        topic = self._random.choice(PREFIXES) + self._random.choice(TOPICS)
        destination, dead_destination = self._addresses(topic, http=http)
        policy = RetryPolicy(self._random.choice([3, 3, 3, 5, 10]), self._random.choice([1, 5, 5, 5, 10, 30, 60]))
        consumed = pick() < 0.6
        group = self._random.choice(GROUPS)
        failure, history, first_failed_at = self._failures(attempt, now_ms, group if consumed else None)
        reason = None
        if pick() < 0.1:
            reason = self._random.choice(["retries-exhausted", "rejected", "worker-lost"])
            name, text = failure.exception_class, failure.message
            stack = STACK.format(name=name, text=text, line=self._random.randrange(400))
            failure = Failure(name, text, stack)
        value, content_type = self._value()
        return Message(
            id=str(uuid.UUID(int=self._random.getrandbits(128))),
            value=value,
            key=self._key(),
            headers=self._headers(),
            destination=destination,
            dead_destination=dead_destination,
            attempt=attempt,
            policy=policy,
            reason=reason,
            failure=failure if consumed or pick() < 0.6 else None,
            history=history,
            group=group if consumed else None,
            origin=Origin(topic, self._random.randrange(48), self._random.randrange(10**9), now_ms)
            if consumed
            else None,
            first_failed_at=first_failed_at,
            content_type=None if consumed else content_type,
            source=None if consumed or pick() < 0.5 else self._random.choice(["api", "billing", "shop", "webhook"]),
            client_id=None if consumed or pick() < 0.6 else f"client-{self._random.randrange(1000)}",
        )

    def context(self) -> dict[str, object]:
        """Return the data that a delivery keeps beside a message."""
        context: dict[str, object] = {}
        if self._random.random() < 0.2:
            context["tries"] = self._random.randrange(1, 9)
        if self._random.random() < 0.2:
            task = str(uuid.UUID(int=self._random.getrandbits(128)))
            context |= {"root_id": task, "parent_id": task}
        if self._random.random() < 0.1:
            context["headers"] = {"traceparent": self._trace()}
        return context

    def _addresses(self, topic: str, *, http: bool) -> tuple[Address, Address]:
        if http:
            host = self._random.choice(["hooks.example.com", "api.example.com", "receiver:8000", "localhost:8080"])
            path = self._random.choice(["/hooks/orders", "/v1/events", "/webhook", "/api/orders/retry"])
            return HttpAddress(f"https://{host}{path}"), DEAD_SET
        brokers = self._random.choice([None, None, None, "kafka:9092", "k1:9092,k2:9092,k3:9092"])
        return KafkaAddress(topic, brokers), KafkaAddress(f"{topic}-dlq", brokers)

    def _failures(
        self, attempt: int, now_ms: int, group: str | None
    ) -> tuple[Failure, tuple[PastAttempt, ...], int | None]:
        host = self._random.choice(
            ["orders-7c9d8f6b5-x2x4q", "worker-1", "ip-10-0-3-17", f"{self._random.getrandbits(48):012x}"]
        )
        by = f"consumer {group}@{host}" if group else self._random.choice([f"schedule_retry@{host}", f"celery@{host}"])
        failures = [Failure(*self._random.choice(ERRORS))] * attempt
        if self._random.random() < 0.3:
            failures = [Failure(*self._random.choice(ERRORS)) for _ in range(attempt)]
        if self._random.random() < 0.3:
            failures = [Failure(f.exception_class, f"{f.message} {self._random.randrange(10**5)}") for f in failures]
        first = now_ms + self._random.randrange(50, 5000)
        history = tuple(
            PastAttempt(n, first + 5000 * (2 ** (n - 1) - 1) + self._random.randrange(900), str(failures[n])[:200], by)
            for n in range(1, attempt)
        )
        return failures[-1], history[-10:], history[0].failed_at_ms

    def _value(self) -> tuple[bytes | None, str | None]:
        makers: list[Callable[[], bytes | None]] = [self._order, self._event, self._text, self._hex, self._binary]
        kind = self._random.choices(range(6), weights=[8, 6, 2, 2, 2, 1])[0]
        if kind == 5:
            return None, None
        content_type = ["application/json", "application/json", "text/plain; charset=utf-8", None, None][kind]
        return makers[kind](), content_type

    def _order(self) -> bytes:
        pick = self._random
        order = {
            pick.choice(["id", "order_id", "orderId"]): pick.choice([pick.randrange(10**7), self._uuid()]),
            pick.choice(["customer", "customer_id", "customerId", "user_id"]): pick.choice(
                [f"c-{pick.randrange(9999)}", pick.randrange(10**6)]
            ),
            "status": pick.choice(WORDS),
            pick.choice(["amount", "total", "price"]): round(pick.random() * 500, 2),
            "currency": pick.choice(["EUR", "USD", "GBP"]),
            "items": [
                {
                    pick.choice(["sku", "product_id"]): f"SKU-{pick.randrange(99999):05d}",
                    pick.choice(["quantity", "qty"]): pick.randrange(1, 9),
                    "price": round(pick.random() * 99, 2),
                }
                for _ in range(pick.randrange(4))
            ],
            pick.choice(["created_at", "createdAt", "timestamp"]): self._time(),
        }
        return self._json(self._some(order))

    def _event(self) -> bytes:
        pick = self._random
        event = {
            "id": self._uuid(),
            pick.choice(["type", "event", "event_type"]): pick.choice(TOPICS) + "." + pick.choice(WORDS),
            "version": 1,
            "timestamp": pick.choice([self._time(), 1_700_000_000_000 + pick.randrange(10**11)]),
            "data": self._some(
                {
                    "user_id": pick.randrange(10**6),
                    "name": pick.choice(NAMES),
                    "email": f"{pick.choice(NAMES).lower()}{pick.randrange(999)}@example.com",
                    "address": {"street": f"Hauptstr. {pick.randrange(200)}", "city": pick.choice(CITIES)},
                    "active": pick.choice([True, False, None]),
                    "tags": pick.sample(WORDS, pick.randrange(3)),
                }
            ),
            "metadata": {"source": pick.choice(GROUPS), "correlation_id": self._uuid()},
        }
        return self._json(self._some(event))

    def _text(self) -> bytes:
        words = [self._random.choice([*WORDS, *NAMES, *TOPICS, *CITIES]) for _ in range(self._random.randrange(2, 30))]
        return self._random.choice([" ", ",", "\n", ";"]).join(words).encode()

    def _hex(self) -> bytes:
        return self._random.randbytes(self._random.choice([8, 16, 32, 100])).hex().encode()

    def _binary(self) -> bytes:
        """Return bytes like those of Avro and protobuf: small numbers, lengths, and texts in between."""
        if self._random.random() < 0.3:
            return self._random.randbytes(self._random.randrange(10, 200))
        parts = [struct.pack(">bI", 0, self._random.randrange(500))]
        for _ in range(self._random.randrange(2, 9)):
            text = self._random.choice([*WORDS, *NAMES, f"c-{self._random.randrange(9999)}"]).encode()
            parts += [bytes([10 + 8 * self._random.randrange(9), len(text)]), text, self._random.randbytes(2)]
        return b"".join(parts)

    def _key(self) -> bytes | None:
        kinds = [
            None,
            b"%d" % self._random.randrange(10**6),
            b"c-%d" % self._random.randrange(10**4),
            self._uuid().encode(),
            b"order-%d" % self._random.randrange(10**5),
            struct.pack(">q", self._random.randrange(10**6)),
        ]
        return self._random.choice(kinds)

    def _headers(self) -> tuple[tuple[str, bytes | None], ...]:
        candidates: list[tuple[str, bytes | None]] = [
            ("content-type", b"application/json"),
            ("traceparent", self._trace().encode()),
            ("correlation-id", self._uuid().encode()),
            ("x-request-id", self._uuid().encode()),
            ("source", self._random.choice(GROUPS).encode()),
            ("__TypeId__", b"com.example.orders.OrderCreated"),
            ("ce_type", b"com.example.order.created"),
            ("version", b"1"),
        ]
        return tuple(self._random.sample(candidates, self._random.choice([0, 0, 0, 1, 2, 3])))

    def _some(self, fields: dict[str, object]) -> dict[str, object]:
        return {name: value for name, value in fields.items() if self._random.random() < 0.8}

    def _json(self, value: object) -> bytes:
        compact = self._random.random() < 0.7
        separators = (",", ":") if compact else (", ", ": ")
        return json.dumps(value, separators=separators, ensure_ascii=not compact).encode()

    def _trace(self) -> str:
        return f"00-{self._random.getrandbits(128):032x}-{self._random.getrandbits(64):016x}-01"

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def _time(self) -> str:
        pick = self._random.randrange
        return f"202{pick(4, 7)}-{pick(1, 13):02d}-{pick(1, 29):02d}T{pick(24):02d}:{pick(60):02d}:{pick(60):02d}Z"


def train() -> bytes:
    """Return a dictionary."""
    samples = Samples(SEED)
    packed = [pack(samples.message(), samples.context()) for _ in range(SAMPLES)]
    trained = zstandard.train_dictionary(SIZE, packed, k=SEGMENT, d=MATCH, level=1)
    return trained.as_bytes()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_dictionary",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", nargs="?", type=Path, help="where to write the new dictionary; it must not exist")
    file: Path | None = parser.parse_args(arguments).file
    if file is not None:
        if file.exists():
            parser.error(f"{file} exists: a dictionary is never changed, because stored messages need it")
        file.write_bytes(train())
        print(f"{file}: {file.stat().st_size} bytes")
        return
    others = Samples(SEED + 1)
    messages = [(others.message(), others.context()) for _ in range(2_000)]
    plain = sum(len(pack(*one)) for one in messages) / len(messages)
    stored = sum(len(encode(*one)) for one in messages) / len(messages)
    print(f"packed {plain:.0f} bytes, stored {stored:.0f} bytes, on average of {len(messages)} messages")


if __name__ == "__main__":
    main()
