"""How rebound proves to Kafka who it is, and encrypts the connection: SASL and TLS, for all of its Kafka clients."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import InvalidSettingError
from .kafka_addresses import parse_brokers

SETTING = "rebound_kafka_security"
_VARIABLE = "REBOUND_KAFKA_"

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
_MECHANISM_RULE = f"it is one of {', '.join(MECHANISMS)}"

_SECRETS = frozenset({"sasl_password", "sasl_token", "ssl_key_password"})
_TLS_FILES = ("ssl_ca_file", "ssl_cert_file", "ssl_key_file")

#: The options of Kafka clients that these settings make, under both clients' names. Two places for one option would
#: leave open which of them holds.
_MADE = {
    "security_protocol": ("security.protocol",),
    "sasl_mechanism": ("sasl.mechanism", "sasl.mechanisms"),
    "sasl_plain_username": ("sasl.username",),
    "sasl_plain_password": ("sasl.password",),
    "sasl_oauth_token_provider": ("oauth_cb", "sasl.oauthbearer.method"),
    "ssl_cafile": ("ssl.ca.location",),
    "ssl_certfile": ("ssl.certificate.location",),
    "ssl_keyfile": ("ssl.key.location",),
    "ssl_password": ("ssl.key.password",),
    "ssl_check_hostname": ("ssl.endpoint.identification.algorithm",),
}

#: A function that returns a token for OAUTHBEARER, or a token and the seconds for which it is valid.
TokenSource = Callable[[], "str | tuple[str, float]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSecurity:
    """The security of the connections to the app's Kafka brokers. `repr` shows no secret.

    Attributes:
        security_protocol: "PLAINTEXT", "SSL", "SASL_PLAINTEXT" or "SASL_SSL". What is not given follows from the other
            fields: with a SASL mechanism it is SASL_SSL, with files for TLS it is SSL, and otherwise PLAINTEXT.
        sasl_mechanism: "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512" or "OAUTHBEARER".
        sasl_username, sasl_password: for PLAIN and SCRAM.
        sasl_token: for OAUTHBEARER: a function, or its name as `module:function`. It returns the token, or the token
            and the seconds for which it is valid.
        ssl_ca_file: the certificates, in PEM form, of those who sign the brokers'; None means those of the system.
        ssl_cert_file, ssl_key_file, ssl_key_password: the client's own certificate.
        ssl_check_hostname: whether a broker's certificate must name its host.
        further_brokers: brokers beside the app's own that get the same credentials. No other broker gets them.
    """

    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    sasl_token: TokenSource | str | None = field(default=None, repr=False)
    ssl_ca_file: str | None = None
    ssl_cert_file: str | None = None
    ssl_key_file: str | None = None
    ssl_key_password: str | None = field(default=None, repr=False)
    ssl_check_hostname: bool = True
    further_brokers: tuple[str, ...] = ()

    @classmethod
    def read(cls, given: object, environ: Mapping[str, str]) -> KafkaSecurity:
        """Read the fields from the mapping `rebound_kafka_security`, then from `REBOUND_KAFKA_<FIELD>`.

        A variable without text counts as not set.

        Raises:
            InvalidSettingError: naming the field or the variable, and what is allowed. It shows no secret.
        """
        if isinstance(given, cls):
            return given
        known = [one.name for one in fields(cls)]
        if given is None:
            given = {}
        if not isinstance(given, Mapping):
            raise InvalidSettingError(SETTING, "***", f"it is a mapping with {', '.join(known)}")
        for name in given:
            if name not in known:
                raise InvalidSettingError(f"{SETTING}[{name!r}]", "***", f"its names are {', '.join(known)}")
        values: dict[str, Any] = {}
        for name in known:
            where, value = f"{SETTING}[{name!r}]", given.get(name)
            if value is None and (text := environ.get(_VARIABLE + name.upper())):
                where, value = _VARIABLE + name.upper(), _from_text(name, text)
            if value is not None:
                values[name] = parse_brokers(value, where) if name == "further_brokers" else _check(name, where, value)
        return cls(**_complete(values))

    def refuse_twice(self, options: Mapping[str, Any]) -> None:
        """Raise InvalidSettingError if `rebound_kafka_options` sets an option that is made here."""
        for name in self._options():
            for spelling in (name, *_MADE[name]):
                if spelling in options:
                    raise InvalidSettingError(
                        f"rebound_kafka_options[{spelling!r}]", "***", f"{SETTING} sets it: give it in one place"
                    )

    def options(self, brokers: Iterable[str], own: Iterable[str]) -> dict[str, Any]:
        """Return the options for a client of these brokers, in kafka-python's names.

        They are empty for brokers that are neither the app's own nor `further_brokers`: a message may name any broker,
        and it must not get the password.

        Args:
            brokers: the brokers that the client connects to, each as `host:port`.
            own: the app's own brokers.

        Raises:
            InvalidSettingError: if a file does not exist, or the function of `sasl_token` cannot be imported.
        """
        _hide_credentials()
        if not set(brokers) <= {*own, *self.further_brokers}:
            return {}
        for name in _TLS_FILES:
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise InvalidSettingError(f"{SETTING}[{name!r}]", path, "there is no such file")
        if isinstance(self.sasl_token, str):
            _check_import(self.sasl_token)
        return self._options()

    def _options(self) -> dict[str, Any]:
        if self.security_protocol == "PLAINTEXT":
            return {}
        made: dict[str, Any] = {"security_protocol": self.security_protocol}
        if self.sasl_mechanism == "OAUTHBEARER":
            # Imported here: kafka takes longer to import than the rest of this package.
            from .kafka_tokens import TokenProvider

            assert self.sasl_token is not None  # `_complete` has checked it
            made |= {"sasl_mechanism": self.sasl_mechanism, "sasl_oauth_token_provider": TokenProvider(self.sasl_token)}
        elif self.sasl_mechanism is not None:
            made |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self.sasl_password,
            }
        if self.security_protocol in ("SSL", "SASL_SSL"):
            made["ssl_check_hostname"] = self.ssl_check_hostname
            tls = {
                "ssl_cafile": self.ssl_ca_file,
                "ssl_certfile": self.ssl_cert_file,
                "ssl_keyfile": self.ssl_key_file,
                "ssl_password": self.ssl_key_password,
            }
            made |= {name: value for name, value in tls.items() if value is not None}
        return made

    @property
    def sends_in_the_clear(self) -> bool:
        """Whether somebody who can read the network sees the password or the token."""
        return self.security_protocol == "SASL_PLAINTEXT" and self.sasl_mechanism in ("PLAIN", "OAUTHBEARER")


def _hide_credentials() -> None:
    """Keep passwords and tokens out of kafka-python's log. At DEBUG it writes each request, and all bytes."""
    for name in ("kafka.net.connection", "kafka.protocol.parser"):
        log = logging.getLogger(name)
        if _without_credentials not in log.filters:
            log.addFilter(_without_credentials)


def _without_credentials(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(_shown_part(part) for part in record.args)
    return True


def _shown_part(part: Any) -> Any:
    if isinstance(part, bytes | bytearray | memoryview):
        return f"<{len(part)} bytes>"
    kind = type(part).__name__
    return f"{kind}(***)" if kind.startswith("Sasl") else part


def variables() -> list[str]:
    """Return the names of the environment variables that `KafkaSecurity.read` reads."""
    return [_VARIABLE + one.name.upper() for one in fields(KafkaSecurity)]


def _from_text(name: str, text: str) -> object:
    """Return what an environment variable means. What it does not mean stays a text, which `_check` refuses."""
    if name == "ssl_check_hostname":
        return {"1": True, "true": True, "0": False, "false": False}.get(text.strip().lower(), text)
    return text


def _check(name: str, where: str, value: Any) -> Any:
    shown = "***" if name in _SECRETS else value
    if name == "security_protocol" and value not in PROTOCOLS:
        raise InvalidSettingError(where, shown, f"it is one of {', '.join(PROTOCOLS)}")
    if name == "sasl_mechanism" and value not in MECHANISMS:
        raise InvalidSettingError(where, shown, f"{_MECHANISM_RULE}; for others see rebound_kafka_options")
    if name == "ssl_check_hostname":
        if not isinstance(value, bool):
            raise InvalidSettingError(where, shown, "it is True or False")
        return value
    if name == "sasl_token":
        if not callable(value) and not (isinstance(value, str) and all(value.partition(":"))):
            raise InvalidSettingError(where, shown, "it is a function, or its name as module:function")
        return value
    if name.endswith("_file") and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value or "\0" in value:
        raise InvalidSettingError(where, shown, "it is a text")
    return value


def _check_import(source: str) -> None:
    from .kafka_tokens import load

    try:
        load(source)
    except Exception as error:  # noqa: BLE001 - a module of the user's may raise anything
        # What is given may be a token in the wrong place, and an import error repeats it.
        allowed = f"the function cannot be imported: {type(error).__name__}; give it as module:function"
        raise InvalidSettingError(f"{SETTING}['sasl_token']", "***", allowed) from None


def _complete(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with the protocol that follows from them, or raise InvalidSettingError if they do not fit."""
    mechanism = values.get("sasl_mechanism")
    protocol = values.get("security_protocol")
    if protocol is None:
        if mechanism is None and (given := [name for name in values if name.startswith("sasl_")]):
            raise InvalidSettingError(f"{SETTING}['sasl_mechanism']", None, f"{given[0]} needs it; {_MECHANISM_RULE}")
        is_tls = any(name.startswith("ssl_") for name in values)
        # A password never goes over the network in the clear, unless the user says so.
        protocol = values["security_protocol"] = "SASL_SSL" if mechanism else "SSL" if is_tls else "PLAINTEXT"
    needed: dict[str, str] = {}
    unused = {name for name in values if name.startswith(("sasl_", "ssl_"))}
    if protocol.startswith("SASL_"):
        needed["sasl_mechanism"] = f"security_protocol={protocol}"
        credentials = {"sasl_token"} if mechanism == "OAUTHBEARER" else {"sasl_username", "sasl_password"}
        if mechanism is not None:
            needed.update(dict.fromkeys(sorted(credentials, reverse=True), mechanism))
        unused -= {"sasl_mechanism", *credentials}
    if protocol.endswith("SSL"):
        unused = {name for name in unused if not name.startswith("ssl_")}
    if "ssl_key_file" in values or "ssl_key_password" in values:
        needed["ssl_cert_file"] = "a client's key"
    for name, by in needed.items():
        if name not in values:
            raise InvalidSettingError(f"{SETTING}[{name!r}]", None, f"{by} needs it")
    for name in sorted(unused):
        shown = "***" if name in _SECRETS else values[name]
        wanted = f"security_protocol={protocol}" + (f" with {mechanism}" if mechanism else "")
        raise InvalidSettingError(f"{SETTING}[{name!r}]", shown, f"{wanted} does not use it; leave it out")
    return values
