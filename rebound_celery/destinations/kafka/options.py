"""Checks the producer's options, which have kafka-python's names, and translates them for librdkafka.

librdkafka (confluent-kafka) also takes its own options, under their dotted names: `{"socket.nagle.disable": True}`.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import InvalidSettingError

#: The largest request, in bytes. It is high, because the broker decides which record is too large
#: (`message.max.bytes`), and not the client.
MAX_REQUEST_BYTES = 100 * 1024 * 1024

#: The names of the options that choose the compression.
COMPRESSION = frozenset({"compression_type", "compression.type", "compression.codec"})

_SETTING = "rebound_kafka_options"

#: An option with one of these words in its name may be secret, so errors do not show its value.
_SECRET_WORDS = ("password", "secret", "token", "jaas", "pem")


class _Option(NamedTuple):
    """An option that both clients have.

    Attributes:
        dotted: librdkafka's name; None if librdkafka has no such option. Then only one value is possible.
        read: returns librdkafka's value, or raises ValueError with the rule for the value.
    """

    dotted: str | None
    read: Callable[[Any], Any]


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError("it is a number from 0")
    return value


def _retries(value: Any) -> Any:
    return min(_number(value), 2**31 - 1)


def _text(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        raise ValueError("it is a text")
    return value


def _file(value: Any) -> Any:
    if not isinstance(value, str | os.PathLike) or not Path(value).is_file():
        raise ValueError("there is no such file")
    return os.fspath(value)


def _one_of(*allowed: Any) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"it is one of {', '.join(map(repr, allowed))}")
        return value

    return read


def _only(*allowed: Any) -> Callable[[Any], Any]:
    """Return a reader for an option whose value is fixed in librdkafka."""

    def read(value: Any) -> Any:
        if value not in allowed:
            raise ValueError(f"confluent-kafka can only do {allowed[0]!r}; use the client kafka-python")
        return value

    return read


def _check_hostname(value: Any) -> Any:
    if value is True:
        return "https"
    if value is False:
        return "none"
    raise ValueError("it is True or False")


def _version(value: Any) -> Any:
    parts = value.split(".") if isinstance(value, str) else value
    if not isinstance(parts, tuple | list) or not all(str(part).isdecimal() for part in parts) or len(parts) < 2:
        raise ValueError("it is a tuple of numbers, such as (2, 8)")
    return ".".join(map(str, [*parts, 0][:3]))


#: kafka-python's name -> the option.
_COMMON: dict[str, _Option] = {
    "security_protocol": _Option("security.protocol", _one_of("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")),
    "sasl_mechanism": _Option("sasl.mechanisms", _text),
    "sasl_plain_username": _Option("sasl.username", _text),
    "sasl_plain_password": _Option("sasl.password", _text),
    "sasl_kerberos_service_name": _Option("sasl.kerberos.service.name", _text),
    "ssl_cafile": _Option("ssl.ca.location", _file),
    "ssl_certfile": _Option("ssl.certificate.location", _file),
    "ssl_keyfile": _Option("ssl.key.location", _file),
    "ssl_crlfile": _Option("ssl.crl.location", _file),
    "ssl_password": _Option("ssl.key.password", _text),
    "ssl_ciphers": _Option("ssl.cipher.suites", _text),
    "ssl_check_hostname": _Option("ssl.endpoint.identification.algorithm", _check_hostname),
    "api_version": _Option("broker.version.fallback", _version),
    "client_id": _Option("client.id", _text),
    "client_dns_lookup": _Option("client.dns.lookup", _text),
    "compression_type": _Option("compression.type", _one_of("gzip", "snappy", "lz4", "zstd")),
    "linger_ms": _Option("linger.ms", _number),
    "batch_size": _Option("batch.size", _number),
    "max_request_size": _Option("message.max.bytes", _number),
    "delivery_timeout_ms": _Option("message.timeout.ms", _number),
    "request_timeout_ms": _Option("request.timeout.ms", _number),
    "retries": _Option("message.send.max.retries", _retries),
    "retry_backoff_ms": _Option("retry.backoff.ms", _number),
    "reconnect_backoff_ms": _Option("reconnect.backoff.ms", _number),
    "reconnect_backoff_max_ms": _Option("reconnect.backoff.max.ms", _number),
    "metadata_max_age_ms": _Option("topic.metadata.refresh.interval.ms", _number),
    "connections_max_idle_ms": _Option("connections.max.idle.ms", _number),
    "max_in_flight_requests_per_connection": _Option("max.in.flight.requests.per.connection", _number),
    "receive_buffer_bytes": _Option("socket.receive.buffer.bytes", _number),
    "send_buffer_bytes": _Option("socket.send.buffer.bytes", _number),
    "receive_message_max_bytes": _Option("receive.message.max.bytes", _number),
    "allow_auto_create_topics": _Option(None, _only(True)),
}

#: Options of both clients that the user may not change, because messages could be lost: the values that may be written
#: anyway, and the reason.
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    **dict.fromkeys(
        ("bootstrap_servers", "bootstrap.servers", "metadata.broker.list"), ((), "set rebound_kafka_brokers instead")
    ),
    **dict.fromkeys(
        ("acks", "request.required.acks"),
        (("all", -1, "-1"), "rebound waits for all in-sync replicas, so that no message is lost"),
    ),
    **dict.fromkeys(
        ("enable_idempotence", "enable.idempotence"),
        ((False, "false"), "one record that the broker refuses would stop the whole producer"),
    ),
    **dict.fromkeys(
        ("transactional_id", "transactional.id", "enable.gapless.guarantee"), ((), "rebound uses no transactions")
    ),
    **dict.fromkeys(("key_serializer", "value_serializer"), ((), "rebound delivers bytes as they are")),
    **dict.fromkeys(("kafka_client", "delivery.report.only.error"), ((), "rebound sets it itself")),
}


def invalid_option(name: str, value: object, allowed: str) -> InvalidSettingError:
    """Return the error for one option. It does not show values that may be secret.

    The value of an unknown option is not shown either, because the name may be that of a password, misspelt.
    """
    is_known = name in _COMMON or name in _FIXED
    shown = value if is_known and not any(word in name for word in _SECRET_WORDS) else "***"
    return InvalidSettingError(f"{_SETTING}[{name!r}]", shown, allowed)


def check_options(client: str, options: Mapping[str, Any]) -> None:
    """Check the names of a client's options, and the values of the options that both clients have. Nothing connects.

    Args:
        client: "kafka-python", "confluent" or "auto".
        options: `rebound_kafka_options`.

    Raises:
        InvalidSettingError: naming the option.
    """
    if client == "auto":
        client = "confluent" if importlib.util.find_spec("confluent_kafka") is not None else "kafka-python"
    if client == "confluent":
        translate(options)
        return
    from kafka import KafkaProducer, codec

    for name, value in options.items():
        _check_fixed(name, value)
        if name not in KafkaProducer.DEFAULT_CONFIG:
            hint = "; dotted names are for the client confluent" if "." in name else ""
            raise invalid_option(name, value, f"kafka-python's KafkaProducer has no such option{hint}")
        if name in _COMMON and name != "allow_auto_create_topics":
            _read(name, value)
    kind = options.get("compression_type")
    if kind is not None and not getattr(codec, f"has_{kind}")():
        raise invalid_option(
            "compression_type", kind, f'its library is not installed; run: pip install "kafka-python[{kind}]"'
        )
    _check_sasl(options)


def translate(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return librdkafka's options for options in kafka-python's names.

    Options with dotted names stay unchanged. They take precedence over a translated option of the same name.

    Raises:
        InvalidSettingError: naming an option that cannot be translated, or whose value cannot be used.
    """
    translated: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for name, value in options.items():
        _check_fixed(name, value)
        if "." in name or name == "oauth_cb":
            own[name] = value
        elif name == "sasl_oauth_token_provider" and _is_own_provider(value):
            own["oauth_cb"] = _token_callback(value)
        elif name == "partitioner" and isinstance(value, str):
            translated[name] = value
        elif name in _COMMON:
            dotted = _COMMON[name].dotted
            read = _read(name, value)
            if read is not None and dotted is not None:
                translated[dotted] = read
        elif name not in _FIXED:
            raise invalid_option(
                name,
                value,
                "it cannot be translated for confluent-kafka; use librdkafka's dotted name, or the client kafka-python",
            )
    _check_sasl(options)
    return {**translated, **own}


def _is_own_provider(value: Any) -> bool:
    from ...kafka_tokens import TokenProvider

    return isinstance(value, TokenProvider)


def _token_callback(provider: Any) -> Callable[[str], tuple[str, float]]:
    return lambda _config: provider.token_and_expiry()


def _read(name: str, value: Any) -> Any:
    """Return librdkafka's value of an option. None, which is kafka-python's default for many options, stays None."""
    if value is None:
        return None
    try:
        return _COMMON[name].read(value)
    except ValueError as error:
        raise invalid_option(name, value, str(error)) from None


def _check_fixed(name: str, value: Any) -> None:
    if name in _FIXED:
        allowed, reason = _FIXED[name]
        if value not in allowed:
            raise invalid_option(name, value, f"this option cannot be changed: {reason}")


def _check_sasl(options: Mapping[str, Any]) -> None:
    """Raise InvalidSettingError if the user name or the password is missing.

    kafka-python misses them only after it has connected. The error would then count as an outage.
    """
    mechanism = options.get("sasl_mechanism")
    if mechanism == "PLAIN" or str(mechanism).startswith("SCRAM-"):
        for name, dotted in (("sasl_plain_username", "sasl.username"), ("sasl_plain_password", "sasl.password")):
            if not options.get(name) and not options.get(dotted):
                raise InvalidSettingError(f"{_SETTING}[{name!r}]", None, f"{mechanism} needs it")
