"""Signatures: a receiver that uses the library of Standard Webhooks accepts them, and nothing else."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from standardwebhooks import Webhook, WebhookVerificationError

from rebound_celery.clock import SYSTEM_CLOCK
from rebound_celery.destinations.http_headers import request_headers, sent_id
from rebound_celery.destinations.http_signatures import Signer
from rebound_celery.http_options import HttpOptions
from rebound_celery.message import Message
from rebound_celery.message.address import HttpAddress
from rebound_celery.policy import RetryPolicy

KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD_KEY = "whsec_" + base64.b64encode(b"o" * 64).decode()
SEED = bytes(range(32))
ED25519 = "whsk_" + base64.b64encode(SEED).decode()
BODY = json.dumps({"order": 7}).encode()


def signed(secret: Any, *, id: str = "order-7", body: bytes = BODY, now_ms: int | None = None) -> dict[str, str]:  # noqa: A002
    """The headers of a request with a message of this id and body, in lower case as a receiver's framework has them."""
    message = Message(id, body, HttpAddress("https://receiver/"), 1, RetryPolicy(3, 5))
    now_ms = SYSTEM_CLOCK.now_ms() if now_ms is None else now_ms
    signatures = Signer(HttpOptions(secret=secret).keys).headers(sent_id(message), body, now_ms)
    return {name.lower(): text for name, text in request_headers(message, None, signatures).items()}


@pytest.mark.parametrize("id", ["order-7", "with spaces", "Zoë/100%", "a.1"])
@pytest.mark.parametrize("body", [BODY, b'"\xc3\xbc"', b"{}"])
def test_the_library_of_standard_webhooks_accepts_a_request(id: str, body: bytes) -> None:  # noqa: A002
    assert Webhook(KEY).verify(body, signed(KEY, id=id, body=body)) == json.loads(body)


def test_it_refuses_another_body_another_id_an_old_time_and_another_key() -> None:
    headers = signed(KEY)

    for changed, body, key in (
        ({}, BODY + b" ", KEY),
        ({"webhook-id": "order-8"}, BODY, KEY),
        ({"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}, BODY, KEY),
        ({}, BODY, OLD_KEY),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(key).verify(body, {**headers, **changed})
    with pytest.raises(WebhookVerificationError):
        Webhook(KEY).verify(BODY, signed(KEY, now_ms=SYSTEM_CLOCK.now_ms() - 3_600_000))


def test_an_earlier_key_signs_until_its_time_so_that_receivers_can_change_over() -> None:
    secret = [KEY, {"key": OLD_KEY, "until": "2100-01-01T00:00:00Z"}]
    headers = signed(secret)

    assert Webhook(KEY).verify(BODY, headers)
    assert Webhook(OLD_KEY).verify(BODY, headers)

    later = signed([KEY, {"key": OLD_KEY, "until": "2001-01-01T00:00:00+02:00"}])
    assert Webhook(KEY).verify(BODY, later)
    with pytest.raises(WebhookVerificationError):
        Webhook(OLD_KEY).verify(BODY, later)


def test_an_ed25519_key_signs_what_its_public_part_verifies() -> None:
    headers = signed([ED25519, KEY])
    schemes = dict(one.split(",", 1) for one in headers["webhook-signature"].split(" "))
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + BODY
    public = Ed25519PrivateKey.from_private_bytes(SEED).public_key()

    public.verify(base64.b64decode(schemes["v1a"]), content)
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(schemes["v1a"]), content + b" ")
    assert Webhook(KEY).verify(BODY, headers), "receivers that know only v1 accept it too"


def test_an_ed25519_key_may_have_its_public_part_behind_it() -> None:
    public = Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw()
    whole = "whsk_" + base64.b64encode(SEED + public).decode()

    assert signed(whole, now_ms=1_000) == signed(ED25519, now_ms=1_000)


def test_a_callers_headers_cannot_replace_a_signature() -> None:
    forged = (("Webhook-Id", b"x"), ("webhook-signature", b"v1,AAAA"), ("WEBHOOK-TIMESTAMP", b"1"))
    message = Message("order-7", BODY, HttpAddress("https://receiver/"), 1, RetryPolicy(3, 5), headers=forged)
    signatures = Signer(HttpOptions(secret=KEY).keys).headers(sent_id(message), BODY, SYSTEM_CLOCK.now_ms())

    assert Webhook(KEY).verify(BODY, request_headers(message, None, signatures)) == {"order": 7}


def test_the_ids_for_receivers_stay_the_same_over_all_attempts_and_are_the_callers_where_he_gave_them() -> None:
    def ids(attempt: int, *headers: tuple[str, bytes]) -> list[str]:
        message = Message("m", b"", HttpAddress("https://x/"), attempt, RetryPolicy(3, 5), b"key", headers)
        sent = request_headers(message)
        return [sent["Webhook-Id"], sent["Idempotency-Key"], sent["X-Message-Key"]]

    assert ids(1) == ids(4) == ["m", "m", "key"]
    assert ids(1, ("idempotency-key", b"charge-7"), ("webhook-id", b"w")) == ["w", "charge-7", "key"]
