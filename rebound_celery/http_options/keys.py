"""The keys that sign webhooks, in the forms of Standard Webhooks: `whsec_...` (HMAC) and `whsk_...` (Ed25519)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from ..errors import InvalidSettingError

#: What the text of a key begins with.
HMAC_PREFIX: Final = "whsec_"
ED25519_PREFIX: Final = "whsk_"

#: Bytes of a key. Standard Webhooks names the first bounds. An Ed25519 key may have its public part behind it.
_HMAC_BYTES = range(24, 65)
_ED25519_BYTES = (32, 64)

_FORMS = (
    f"a key is {HMAC_PREFIX} and the base64 of 24 to 64 bytes, or {ED25519_PREFIX} and the base64 of an Ed25519 key "
    "(32 or 64 bytes)"
)
_UNTIL_RULE = "'until' is a time with its zone, such as 2026-12-31T00:00:00Z"
#: A key appears in no error.
_HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs webhooks.

    Attributes:
        scheme: "v1" for HMAC-SHA256, "v1a" for Ed25519.
        secret: the bytes of the key; of Ed25519 the 32 bytes of the seed.
        until_ms: until when it signs, in Unix milliseconds; None for always. An earlier key keeps signing for a while,
            so that receivers can change to the new one.
    """

    scheme: Literal["v1", "v1a"]
    secret: bytes = field(repr=False)
    until_ms: int | None = None


def read_keys(name: str, value: object) -> tuple[SigningKey, ...]:
    """Read one key or several.

    Args:
        name: the name of the setting, for errors.
        value: a text; or a mapping with `key` and `until`; or a list of both.

    Raises:
        InvalidSettingError: naming what is wrong, without any key.
    """
    items = list(value) if isinstance(value, list | tuple) else [value]
    keys = tuple(
        item if isinstance(item, SigningKey) else _read_key(name if len(items) == 1 else f"{name}[{index}]", item)
        for index, item in enumerate(items)
    )
    if keys and all(key.until_ms is not None for key in keys):
        raise InvalidSettingError(name, _HIDDEN, "one key has no 'until', or nothing would be signed after it")
    return keys


def _read_key(name: str, value: object) -> SigningKey:
    until_ms = None
    if isinstance(value, Mapping):
        unknown = sorted(map(str, set(value) - {"key", "until"}))
        if unknown or "key" not in value:
            raise InvalidSettingError(name, _HIDDEN, "give a key, or a mapping with 'key' and 'until'")
        until_ms = None if value.get("until") is None else _read_time(name, value["until"])
        value = value["key"]
    if not isinstance(value, str):
        raise InvalidSettingError(name, _HIDDEN, _FORMS)
    for prefix, scheme, sizes in (("whsec_", "v1", _HMAC_BYTES), ("whsk_", "v1a", _ED25519_BYTES)):
        if not value.startswith(prefix):
            continue
        secret = _from_base64(name, value.removeprefix(prefix))
        if len(secret) not in sizes:
            raise InvalidSettingError(name, _HIDDEN, f"it has {len(secret)} bytes; {_FORMS}")
        if scheme == "v1":
            return SigningKey("v1", secret, until_ms)
        return SigningKey("v1a", secret[:32], until_ms)
    raise InvalidSettingError(name, _HIDDEN, _FORMS)


def _from_base64(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (ValueError, binascii.Error):
        raise InvalidSettingError(name, _HIDDEN, f"what follows its prefix is not base64; {_FORMS}") from None


def _read_time(name: str, value: object) -> int:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        raise InvalidSettingError(f"{name}.until", value, _UNTIL_RULE) from None
    if not isinstance(time, datetime) or time.tzinfo is None:
        raise InvalidSettingError(f"{name}.until", value, _UNTIL_RULE)
    return round(time.timestamp() * 1000)
