"""`rebound_encryption_keys` encrypts stored messages, and no error or `repr` shows a key."""

from __future__ import annotations

import base64
import copy
import pickle
import sys
from typing import Any

import pytest
from celery.app.utils import filter_hidden_settings

from rebound_celery import InvalidSettingError, RetryRequest, Settings
from rebound_celery.delivery.delivery import Delivery
from rebound_celery.errors import UnknownKeyError, UnknownVersionError
from rebound_celery.message import codec
from rebound_celery.message.encryption import ENCRYPTED, NO_KEYS, KeyRing

ONE, TWO = bytes(range(32)), bytes(range(100, 132))
TEXT = base64.b64encode(ONE).decode()
FIXED = "EgcyMDI2LTExnSho9h5jFS5abu3R05LRfyfnroVzJqnCslR1OPdbazWi0XUt+uaFBR61bpON72sCS5bESx+EXX1dXMQ="
STORED = b"\x10" + b"a stored message" * 5


def test_what_is_sealed_is_opened_and_shows_nothing() -> None:
    keys = KeyRing({"k1": ONE})
    sealed = keys.seal(STORED)

    assert sealed[0] == ENCRYPTED
    assert b"stored" not in sealed
    assert len(sealed) == len(STORED) + 2 + len("k1") + 24 + 16
    assert sealed != keys.seal(STORED)
    assert keys.open(sealed) == STORED
    assert keys.seal_many([STORED, STORED])[0] != sealed


def test_the_form_stays_readable() -> None:
    """A message that an earlier commit has encrypted."""
    keys = KeyRing({"2026-11": ONE})
    assert keys.open(base64.b64decode(FIXED)) == b"\x10an earlier message"


def test_without_keys_nothing_is_changed_and_plain_messages_stay_readable() -> None:
    assert NO_KEYS.seal(STORED) is STORED
    assert NO_KEYS.open(STORED) is STORED
    assert KeyRing({"k1": ONE}).open(STORED) is STORED


def test_keys_are_rotated_by_adding_one_then_putting_it_first_then_removing_the_old_one() -> None:
    old, added = KeyRing({"k1": ONE}), KeyRing({"k1": ONE, "k2": TWO})
    turned, new = KeyRing({"k2": TWO, "k1": ONE}), KeyRing({"k2": TWO})

    assert added.seal(STORED)[2:4] == b"k1"
    assert turned.seal(STORED)[2:4] == b"k2"
    for writer, reader in ((old, added), (added, old), (added, turned), (turned, added), (turned, new)):
        assert reader.open(writer.seal(STORED)) == STORED
    with pytest.raises(UnknownKeyError, match="'k1', which is not among"):
        new.open(old.seal(STORED))


def test_a_message_that_no_key_opens_is_one_of_a_version_that_this_process_cannot_read() -> None:
    sealed = KeyRing({"k1": ONE}).seal(STORED)

    for keys in (NO_KEYS, KeyRing({"k2": TWO}), KeyRing({"k1": TWO})):
        with pytest.raises(UnknownVersionError, match="'k1'"):
            keys.open(sealed)
    with pytest.raises(UnknownVersionError):
        codec.decode("m", sealed)
    with pytest.raises(UnknownVersionError):
        codec.check_version(sealed)
    with pytest.raises(UnknownKeyError):
        NO_KEYS.check(sealed)
    KeyRing({"k1": ONE}).check(sealed)


@pytest.mark.parametrize("place", [0, 1, 2, 3, 4, 27, 28, 40, -1])
def test_a_changed_byte_is_found(place: int) -> None:
    keys = KeyRing({"k1": ONE})
    damaged = bytearray(keys.seal(STORED))
    damaged[place] ^= 1
    if place == 0:
        with pytest.raises(UnknownVersionError):
            codec.decode("m", keys.open(bytes(damaged)))
    else:
        with pytest.raises(UnknownKeyError):
            keys.open(bytes(damaged))


@pytest.mark.parametrize("length", range(1, 60))
def test_a_form_that_is_cut_off_is_refused(length: int) -> None:
    keys = KeyRing({"k1": ONE})
    with pytest.raises(UnknownKeyError):
        keys.open(keys.seal(b"")[: min(length, 43)])


def test_the_error_may_travel_to_another_process() -> None:
    error = UnknownKeyError("k1", "which is not here")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(other), str(other)) == (UnknownKeyError, str(error))


def test_keys_are_read_from_the_configuration_and_the_environment() -> None:
    url_safe = base64.urlsafe_b64encode(TWO).decode()
    expected = KeyRing({"k1": ONE, "k2": TWO})
    given = f"k1:{TEXT}, k2:{url_safe}"
    assert Settings.read({"rebound_encryption_keys": given}, {}).encryption_keys == expected
    assert Settings.read({}, {"REBOUND_ENCRYPTION_KEYS": given}).encryption_keys == expected
    assert Settings.read({"rebound_encryption_keys": ""}, {}).encryption_keys == NO_KEYS
    reads = Settings.read({"rebound_encryption_keys": f"none,{given}"}, {}).encryption_keys
    assert reads.seal(STORED) is STORED
    assert reads.open(expected.seal(STORED)) == STORED
    assert reads != expected


@pytest.mark.parametrize(
    "value",
    [
        TEXT,
        [TEXT],
        {"k1": TEXT},
        TEXT[:32],
        f":{TEXT}",
        f"{TEXT}:k1",
        f"ü:{TEXT}",
        f"k1:{TEXT[:-8]}",
        f"k1:{TEXT}AAAA",
        f"k1:not base64 {TEXT}",
        "k1:",
        f"k1:{TEXT},k1:{TEXT}",
        f"k1={TEXT}",
    ],
)
def test_a_wrong_key_is_refused_and_not_shown(value: Any) -> None:
    with pytest.raises(InvalidSettingError, match="rebound_encryption_keys") as refused:
        Settings.read({"rebound_encryption_keys": value}, {})
    assert TEXT[:10] not in str(refused.value)


def test_keys_without_the_package_are_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from rebound_celery.message import encryption

    encryption._aes.cache_clear()
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(InvalidSettingError, match="pip install cryptography"):
        Settings.read({"rebound_encryption_keys": f"k1:{TEXT}"}, {})
    encryption._aes.cache_clear()


def test_neither_repr_nor_celerys_report_shows_a_key_or_a_password() -> None:
    conf = {
        "rebound_encryption_keys": f"k1:{TEXT}",
        "rebound_kafka_security": {"sasl_mechanism": "PLAIN", "sasl_username": "u", "sasl_password": TEXT},
    }
    settings = Settings.read(conf, {})
    assert repr(settings.encryption_keys) == "KeyRing(['k1'])"
    assert TEXT not in repr(settings)
    assert TEXT not in repr(filter_hidden_settings(conf))


def test_a_delivery_is_read_again_with_the_keys() -> None:
    message, _ = RetryRequest(destination="kafka://t", value=b"secret").to_message(Settings(), 0)
    keys = KeyRing({"k1": ONE})
    delivery = Delivery(message=message, task_id=message.task_id, tries=2)
    stored = delivery.encode(keys)

    assert b"secret" not in stored
    assert Delivery.decode(message.task_id, stored, keys=keys).message == message
