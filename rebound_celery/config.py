"""Reads the app's settings from Celery's configuration and the environment, and checks them.

Apart from `environment.py`, the demo and the embedded servers, no other module reads environment variables.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .errors import InvalidSettingError
from .http_options import HttpTable, read_http_table
from .kafka_addresses import parse_brokers as parse_brokers
from .kafka_security import KafkaSecurity
from .labels import LabelKey, read_labels
from .limits import BreakerOptions, RateRule, read_rates
from .message.address import check_topic
from .message.encryption import KeyRing
from .policy import DEFAULT_BASE_DELAY_S, DEFAULT_MAX_RETRIES, PolicyTable, RetryPolicy, policy_of
from .policy.declared import Fault
from .policy.table import refusal
from .policy.toml import read_toml
from .redaction import Redactor
from .setting_values import parse_path as parse_path
from .setting_values import read_count, read_flag, read_mapping, read_name, read_proxy, read_seconds, read_url

PREFIX = "rebound_"

#: The client libraries of the Kafka destination. "auto" takes confluent if it is installed.
KAFKA_CLIENTS = ("kafka-python", "confluent", "auto")


def _kafka_client(name: str, value: object) -> str:
    if value not in KAFKA_CLIENTS:
        raise InvalidSettingError(name, value, f"it is one of {', '.join(map(repr, KAFKA_CLIENTS))}")
    return str(value)


def _policy_field(field_name: str) -> Callable[[str, Any], Any]:
    """Return a reader for a field of RetryPolicy. Its error names the setting."""

    def read(name: str, value: Any) -> Any:
        try:
            return getattr(RetryPolicy(**{field_name: value}), field_name)
        except InvalidSettingError as error:
            raise InvalidSettingError(name, value, error.allowed) from None

    return read


def _policies(name: str, value: object, base: RetryPolicy) -> PolicyTable:
    """A table of policies, from a mapping or from the TOML file with this path."""
    if isinstance(value, PolicyTable):
        return value
    if isinstance(value, str | os.PathLike):
        return read_toml(name, parse_path(value, name), base)
    try:
        return PolicyTable.read(value, base)
    except Fault as fault:
        raise refusal(name, fault) from None


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "queue": read_name,
    "dead_letter_suffix": lambda name, value: check_topic(value, name),
    "kafka_brokers": lambda name, value: parse_brokers(value, name),
    "kafka_client": _kafka_client,
    "kafka_options": read_mapping,
    "max_retries": _policy_field("max_retries"),
    "base_delay": _policy_field("base_delay"),
    "lease": read_seconds,
    "max_worker_losses": read_count,
    "kafka_timeout": read_seconds,
    "http_connect_timeout": read_seconds,
    "http_timeout": read_seconds,
    "http_proxy": read_proxy,
    "http_destinations": read_http_table,
    "operator_url": read_url,
    "outage_delay": read_seconds,
    "outage_max_delay": read_seconds,
    "breaker": BreakerOptions.read,
    "rates": read_rates,
    "dead_letter_ttl": read_seconds,
    "metrics_labels": read_labels,
    "redact": Redactor.read,
    "encryption_keys": KeyRing.read,
    "health_file": lambda name, value: parse_path(value, name),
    "tracing": read_flag,
}

#: Settings that no environment variable can hold: mappings.
_ONLY_IN_CONF = frozenset({"kafka_options", "kafka_security", "http_destinations", "rates"})

#: Environment variables hold text; these settings are numbers.
_NUMBERS: dict[str, Callable[[str], Any]] = {"max_retries": int, "base_delay": float, "max_worker_losses": int}


#: Stands for the setting `policies` that is not given: one policy with the settings `max_retries` and `base_delay`.
_NO_POLICIES: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The `rebound_*` settings of a Celery app, here without that prefix.

    Each setting may come from three places, in this order: the app's configuration (`app.conf.rebound_queue = ...`, or
    `CELERY_REBOUND_QUEUE` with Django's namespace), the environment variable (`REBOUND_QUEUE`), and the default.

    Attributes:
        queue: the queue of rebound's own tasks. A worker of an app without Rebound never reads it.
        kafka_brokers: the brokers for retries and dead letters: `host:port`, several with commas or as a list.
        kafka_client: the library that produces to Kafka: "kafka-python", "confluent" or "auto". "confluent" takes a
            quarter of the processor time and needs the extra `confluent`. "auto" takes confluent in each process where
            it is installed, and otherwise kafka-python.
        kafka_options: further options of the producer in kafka-python's names, such as `security_protocol` and
            `sasl_mechanism`. They are translated for confluent, which also takes librdkafka's dotted names.
        kafka_security: SASL and TLS for all connections to these brokers: a mapping with the fields of `KafkaSecurity`.
            Each field may also come from the environment, as `REBOUND_KAFKA_<FIELD>`; see docs/security.md.
        max_retries: the default number of retries for `schedule_retry`; 0 to 100.
        base_delay: the default delay before the first retry for `schedule_retry`, in seconds; 1 to 3600.
        policies: the policies of all messages, by topic and by destination: a mapping, or the path of a TOML file. What
            it does not set has `max_retries` and `base_delay`; see docs/policies.md.
        dead_letter_suffix: the end of a dead letter topic's name, after the name of the topic itself.
        lease: seconds that a worker's claim on a due message lasts. The worker renews it while it works; when the
            worker is gone, the message is due again after this time at the latest.
        max_worker_losses: how many workers may be lost while they work on a message before it becomes a dead letter.
        kafka_timeout: seconds until an unconfirmed record counts as an outage.
        http_timeout: seconds for the requests of one job as a whole: to connect, to send, and to read the answers.
        http_connect_timeout: how many of these seconds may go by until it is connected: look-up, all addresses, TLS.
        http_proxy: the proxy of all posts, `http://host:port` or `http://user:password@host:port`; "" for none; None
            for what HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say.
        http_destinations: from the pattern of a destination, such as `https://api.example.com/*`, to its options:
            `HttpOptions`, or a mapping of their names. `*` has the options of all others, and what an option is that a
            destination leaves out.
        operator_url: a URL that is told with a POST when an endpoint is disabled; None tells only the log.
        outage_delay: seconds before a delivery is tried again when its destination is away. The delay doubles with
            each further try.
        outage_max_delay: the longest such delay, in seconds.
        breaker: when the circuit breaker of a destination opens: `BreakerOptions`, a mapping of them, or True for the
            default ones. None or False means that there are no circuit breakers.
        rates: the delivery rates of destinations and keys, as a mapping of patterns to messages a second. None leaves
            the rates of all lanes as they are.
        dead_letter_ttl: seconds after which workers remove dead letters that Redis keeps; None means never.
        metrics_labels: further labels of the counters: `source`, `client_id`, `group`, or `header:NAME`.
        redact: a function, or its name as `module:function`, for what is kept of errors and of the headers of dead
            letters; see docs/security.md.
        encryption_keys: the keys that encrypt what waits in Redis; see docs/security.md.
        health_file: a file that a worker rewrites every few seconds while it works, for probes; None writes none. In
            its path, `%h` is replaced by the worker's full name, and `%n` by the part before the `@`.
        tracing: whether spans are made where OpenTelemetry has a tracer provider; see docs/tracing.md.
    """

    queue: str = "rebound"
    kafka_brokers: tuple[str, ...] = ("localhost:9092",)
    kafka_client: str = "kafka-python"
    kafka_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    kafka_security: KafkaSecurity = field(default_factory=KafkaSecurity)
    max_retries: int = DEFAULT_MAX_RETRIES
    base_delay: float = DEFAULT_BASE_DELAY_S
    policies: PolicyTable = _NO_POLICIES
    dead_letter_suffix: str = "-dlq"
    lease: float = 30.0
    max_worker_losses: int = 3
    kafka_timeout: float = 30.0
    http_connect_timeout: float = 5.0
    http_timeout: float = 30.0
    http_proxy: str | None = field(default=None, repr=False)
    http_destinations: HttpTable = field(default_factory=HttpTable, repr=False)
    operator_url: str | None = field(default=None, repr=False)
    outage_delay: float = 1.0
    outage_max_delay: float = 60.0
    breaker: BreakerOptions | None = None
    rates: tuple[RateRule, ...] | None = None
    encryption_keys: KeyRing = field(default_factory=KeyRing)
    dead_letter_ttl: float | None = None
    metrics_labels: tuple[LabelKey, ...] = ()
    redact: Redactor = field(default_factory=Redactor)
    health_file: str | None = None
    tracing: bool = True

    def __post_init__(self) -> None:
        if self.policies is _NO_POLICIES:
            object.__setattr__(self, "policies", PolicyTable(policy_of(self.max_retries, self.base_delay)))

    @classmethod
    def read(cls, conf: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
        """Read the settings from a Celery configuration, then the environment.

        Raises:
            InvalidSettingError: naming the setting, its value, and what is allowed.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for setting in fields(cls):
            name = PREFIX + setting.name
            value = conf.get(name)
            if value is None and setting.name in _ONLY_IN_CONF and name.upper() in environ:
                rule = f"it is a mapping, which no environment variable holds: set {name} in the app's configuration"
                raise InvalidSettingError(name.upper(), "***", rule)
            if setting.name == "kafka_security":
                # Each of its fields may come from the environment.
                security = KafkaSecurity.read(value, environ)
                security.refuse_twice(values.get("kafka_options", {}))
                values[setting.name] = security
                continue
            if value is None:
                name = name.upper()
                value = _from_environment(name, environ, _NUMBERS.get(setting.name, str))
            if value is None:
                continue
            if setting.name == "policies":
                # The numbers that it does not set are in settings that were read before.
                base = policy_of(
                    values.get("max_retries", DEFAULT_MAX_RETRIES), values.get("base_delay", DEFAULT_BASE_DELAY_S)
                )
                values[setting.name] = _policies(name, value, base)
            else:
                values[setting.name] = _READERS[setting.name](name, value)
        return cls(**values)

    def kafka_connection(self, brokers: Iterable[str] | None = None) -> dict[str, Any]:
        """Return the security options of a Kafka client in kafka-python's names; see `KafkaSecurity.options`.

        Args:
            brokers: the brokers that it connects to; None means the app's own.
        """
        own = self.kafka_brokers
        return self.kafka_security.options(own if brokers is None else brokers, own)


#: The names of all settings, as Celery's configuration has them.
SETTING_NAMES = tuple(PREFIX + setting.name for setting in fields(Settings))


def _from_environment(variable: str, environ: Mapping[str, str], convert: Callable[[str], Any]) -> Any:
    if (text := environ.get(variable)) is None:
        return None
    try:
        return convert(text)
    except ValueError:
        raise InvalidSettingError(variable, text, "it is a number") from None
