"""Signs requests as Standard Webhooks says, so that a receiver knows who sent them, when, and that nothing was changed.

A receiver checks them with a library of https://www.standardwebhooks.com.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Sequence

from ..errors import ClientNotInstalledError
from ..http_options import SigningKey
from .http_headers import WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP

_Sign = Callable[[bytes], bytes]


class Signer:
    """Signs with several keys: receivers accept a request if one signature is of a key that they know.

    Args:
        keys: at least one, the newest first.

    Raises:
        ClientNotInstalledError: if a key is one of Ed25519, and the package `cryptography` is not installed.
    """

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        self._signs = [(key, _sign_with(key)) for key in keys]

    def headers(self, id: str, body: bytes, now_ms: int) -> dict[str, str]:  # noqa: A002 - the field's own word
        """The headers that sign a request.

        Args:
            id: the message's id as it is sent.
            body: the request's body.
            now_ms: the time of this attempt, in Unix milliseconds: receivers refuse what is minutes old.
        """
        timestamp = now_ms // 1000
        content = f"{id}.{timestamp}.".encode() + body
        signatures = [
            f"{key.scheme},{base64.b64encode(sign(content)).decode('ascii')}"
            for key, sign in self._signs
            if key.until_ms is None or now_ms < key.until_ms
        ]
        return {WEBHOOK_ID: id, WEBHOOK_TIMESTAMP: str(timestamp), WEBHOOK_SIGNATURE: " ".join(signatures)}


def _sign_with(key: SigningKey) -> _Sign:
    if key.scheme == "v1":
        return lambda content: hmac.digest(key.secret, content, hashlib.sha256)
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        raise ClientNotInstalledError("secret", "whsk_...", "cryptography") from None
    return Ed25519PrivateKey.from_private_bytes(key.secret).sign
