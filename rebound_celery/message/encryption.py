"""Encrypts stored messages with keys from the settings.

    byte 0        0x12, the version of this form
    byte 1        the length of the key's id
    then          the key's id, 24 random bytes, and the encrypted message with its tag (16 bytes)

What is encrypted is a stored form of `codec.py`. `codec.py` has no reader for 0x12: a worker without keys leaves such a
message in the schedule, as one of a later version.

The cipher is AES-256-GCM of the package `cryptography`. Fernet, of the same package, makes messages a third longer and
uses AES-128. GCM alone allows 2**32 messages with one key and random nonces, which is a few weeks at 1,000 a second. So
each message has its own key and nonce, which HMAC-SHA512 makes of the key and the 24 random bytes.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..errors import InvalidSettingError, UnknownKeyError

ENCRYPTED = 0x12

_SALT_BYTES = 24
_TAG_BYTES = 16
_KEY_BYTES = 32
_CONTEXT = b"rebound-celery stored message\0"
#: Stands for the key that encrypts where nothing is to be encrypted.
_NONE = "none"

#: From the characters of URL-safe base64 to those of standard base64.
_STANDARD = str.maketrans("-_", "+/")
_ID_FORM = re.compile(r"[A-Za-z0-9._-]{1,32}")
_RULE = "it is the text id:key,id:key with keys of 32 bytes in base64 (openssl rand -base64 32)"


class KeyRing:
    """The keys of an app. The first one encrypts; each of them decrypts. `repr` shows their ids alone.

    Args:
        keys: id -> 32 bytes, the key that encrypts first. Without keys nothing is encrypted.
        encrypts: False encrypts nothing, and decrypts with every key.
    """

    __slots__ = ("_first", "_keys")

    def __init__(self, keys: Mapping[str, bytes] | None = None, *, encrypts: bool = True) -> None:
        self._keys = dict(keys or {})
        self._first = next(iter(self._keys), None) if encrypts else None

    @classmethod
    def read(cls, name: str, value: object) -> KeyRing:
        """Read the text `id:key,id:key`. With `none` before the first key nothing is encrypted.

        A mapping is refused: `celery inspect conf` and `celery report` hide the value of a setting with this name, but
        not the values of a mapping.

        Raises:
            InvalidSettingError: if a key or its id is wrong, or the package `cryptography` is not installed. The error
                shows no key.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise InvalidSettingError(name, "***", _RULE)
        keys: dict[str, bytes] = {}
        items = [item for item in map(str.strip, value.split(",")) if item]
        encrypts = items[:1] != [_NONE]
        for item in items if encrypts else items[1:]:
            identity, colon, text = item.partition(":")
            if not colon or not _ID_FORM.fullmatch(identity) or identity in keys:
                # It may be a key in the wrong place, or one without an id.
                raise InvalidSettingError(name, "***", f"{_RULE}; an id has 1 to 32 of A-Z a-z 0-9 . _ -, and is new")
            try:
                key = base64.b64decode(text.translate(_STANDARD), validate=True)
            except ValueError:
                key = b""
            if len(key) != _KEY_BYTES:
                raise InvalidSettingError(f"{name}[{identity!r}]", "***", _RULE)
            keys[identity] = key
        if keys:
            _check_package(name)
        return cls(keys, encrypts=encrypts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyRing) and (self._first, self._keys) == (other._first, other._keys)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"KeyRing({list(self._keys)})"

    def seal(self, stored: bytes) -> bytes:
        """Encrypt a stored form, if there are keys."""
        if self._first is None:
            return stored
        identity = self._first.encode()
        head = bytes((ENCRYPTED, len(identity))) + identity
        salt = os.urandom(_SALT_BYTES)
        cipher, nonce = _cipher(self._keys[self._first], salt)
        return b"".join((head, salt, cipher.encrypt(nonce, stored, head)))

    def seal_many(self, stored: list[bytes]) -> list[bytes]:
        """Encrypt stored forms, if there are keys."""
        return stored if self._first is None else [self.seal(one) for one in stored]

    def check(self, stored: bytes) -> None:
        """Raise UnknownKeyError if this form is encrypted with a key that is not here. Nothing is decrypted."""
        if stored[:1] == _MARK:
            identity = _identity_of(stored)
            if identity not in self._keys:
                raise UnknownKeyError(identity, "which is not among this process's rebound_encryption_keys")

    def open(self, stored: bytes) -> bytes:
        """Return the form that was encrypted. What is not encrypted is returned as it is.

        Raises:
            UnknownKeyError: if no key opens it. The message must stay in the schedule.
        """
        if stored[:1] != _MARK:
            return stored
        self.check(stored)
        identity = _identity_of(stored)
        start = 2 + len(identity)
        head, salt, sealed = stored[:start], stored[start : start + _SALT_BYTES], stored[start + _SALT_BYTES :]
        if len(salt) < _SALT_BYTES or len(sealed) < _TAG_BYTES:
            raise UnknownKeyError(identity, "and is cut off")
        from cryptography.exceptions import InvalidTag

        cipher, nonce = _cipher(self._keys[identity], salt)
        try:
            return cipher.decrypt(nonce, sealed, head)  # type: ignore[no-any-return]
        except InvalidTag:
            raise UnknownKeyError(identity, "which is another key here, or the message is damaged") from None

    def try_open(self, stored: bytes) -> bytes | UnknownKeyError:
        """Return the result of `open`, or the error that it raises."""
        try:
            return self.open(stored)
        except UnknownKeyError as error:
            return error


_MARK = bytes([ENCRYPTED])

#: Encrypts nothing, and opens what is not encrypted.
NO_KEYS = KeyRing()


def _identity_of(stored: bytes) -> str:
    return stored[2 : 2 + stored[1]].decode("ascii", "replace") if len(stored) > 1 else ""


def _cipher(key: bytes, salt: bytes) -> tuple[Any, bytes]:
    """Return the cipher and the nonce of one message."""
    made = hmac.digest(key, _CONTEXT + salt, "sha512")
    return _aes()(made[:_KEY_BYTES]), made[_KEY_BYTES : _KEY_BYTES + 12]


@lru_cache(1)
def _aes() -> Any:
    # Imported here: most apps have no keys, and the package is an extra.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM


def _check_package(name: str) -> None:
    try:
        _aes()
    except ImportError:
        raise InvalidSettingError(
            name, "***", "the package cryptography is not installed; run: pip install cryptography"
        ) from None
