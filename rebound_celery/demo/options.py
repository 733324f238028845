"""The options of a demo run, read from texts and checked in one place, so that a wrong value gives one clear line."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from urllib.parse import urlsplit

from ..config import parse_brokers
from ..errors import InvalidSettingError
from ..policy import DEFAULT_MAX_RETRIES, RetryPolicy

#: 90, 90s, 2m, 1m30s, 1h; fractions are allowed in each part.
_DURATION_FORM = re.compile(r"(?:(?P<h>[\d.]+)h)?(?:(?P<m>[\d.]+)m)?(?:(?P<s>[\d.]+)s?)?")
_DURATION_RULE = "give seconds, or a form such as 60s, 2m or 1m30s, above 0"

#: One kafka-python producer in one thread cannot send more than about this.
MAX_RATE = 10_000

#: Celery's pools; the last two are packages of their own.
POOLS = ("prefork", "threads", "solo", "gevent", "eventlet")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """The options of one run.

    Attributes:
        duration_s: how long messages are produced.
        failure_rate: share of messages (of those that do not always fail) whose handler fails at first.
        always_fail_rate: share of messages whose handler fails every time.
        rate: messages a second.
        policy: how failures are tried again.
        worker_pool: the worker's pool. The default is threads, because the children of a prefork worker that is killed
            live on for a moment.
        drain: whether to wait, after producing, until no message is waiting.
        flower: whether Flower is started.
        exits: whether the demo ends after the balance, or keeps Flower until Ctrl-C. None means that it keeps Flower
            where people look at it: on a terminal, without `json`.
        json: whether the balance is one JSON object on stdout.
        kafka: `host:port`, several with commas; None means an embedded broker.
        redis: a URL; None means an embedded server.
    """

    duration_s: float = 30.0
    failure_rate: float = 0.3
    always_fail_rate: float = 0.05
    rate: float = 50.0
    policy: RetryPolicy = field(default_factory=lambda: RetryPolicy(DEFAULT_MAX_RETRIES, 1))
    worker_pool: str = "threads"
    drain: bool = True
    flower: bool = True
    exits: bool | None = None
    json: bool = False
    kafka: str | None = None
    redis: str | None = None

    @classmethod
    def read(
        cls,
        *,
        duration: str,
        failure_rate: str,
        always_fail_rate: str,
        rate: str,
        max_retries: str,
        base_delay: str,
        worker_pool: str,
        drain: bool,
        flower: bool,
        exits: bool | None,
        json: bool,
        kafka: str | None,
        redis: str | None,
    ) -> DemoOptions:
        """Make options of the texts of a command line.

        Raises:
            InvalidSettingError: naming the option, its value, and what is allowed.
        """
        messages_a_second = _number("rate", rate, f"it is messages a second, above 0 and at most {MAX_RATE}")
        if not 0 < messages_a_second <= MAX_RATE:
            raise InvalidSettingError("rate", rate, f"it is messages a second, above 0 and at most {MAX_RATE}")
        retries = int(max_retries) if re.fullmatch(r"-?\d{1,9}", max_retries.strip(), re.ASCII) else max_retries
        return cls(
            duration_s=parse_duration(duration),
            failure_rate=_share("failure_rate", failure_rate),
            always_fail_rate=_share("always_fail_rate", always_fail_rate),
            rate=messages_a_second,
            policy=RetryPolicy(retries, _number("base_delay", base_delay, "it is a number of seconds")),  # type: ignore[arg-type]
            worker_pool=_pool(worker_pool),
            drain=drain,
            flower=flower,
            exits=exits,
            json=json,
            kafka=None if kafka is None else ",".join(parse_brokers(kafka, "kafka")),
            redis=None if redis is None else _redis_url(redis),
        )

    def stays(self, *, on_terminal: bool) -> bool:
        """Whether Flower is kept after the balance, for somebody who looks at it."""
        if self.exits is None:
            return self.flower and on_terminal and not self.json
        return self.flower and not self.exits


def parse_duration(text: str) -> float:
    """Seconds from `60`, `60s`, `2m`, `1m30s` or `1h`; InvalidSettingError for anything else."""
    match = _DURATION_FORM.fullmatch(text.strip())
    try:
        parts = {unit: float(part) for unit, part in match.groupdict().items() if part} if match else {}
    except ValueError:
        parts = {}
    seconds = parts.get("h", 0.0) * 3600 + parts.get("m", 0.0) * 60 + parts.get("s", 0.0)
    if not 0 < seconds < math.inf:
        raise InvalidSettingError("duration", text, _DURATION_RULE)
    return seconds


def _number(name: str, text: str, rule: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise InvalidSettingError(name, text, rule) from None
    if not math.isfinite(number):
        raise InvalidSettingError(name, text, rule)
    return number


def _share(name: str, text: str) -> float:
    rule = "it is a share from 0 to 1"
    share = _number(name, text, rule)
    if not 0 <= share <= 1:
        raise InvalidSettingError(name, text, rule)
    return share


def _pool(name: str) -> str:
    if name not in POOLS:
        raise InvalidSettingError("worker_pool", name, f"it is one of {', '.join(POOLS)}")
    if name in ("gevent", "eventlet") and find_spec(name) is None:
        raise InvalidSettingError("worker_pool", name, f"it is not installed; run: pip install {name}")
    return name


def _redis_url(text: str) -> str:
    rule = "give host:port, or a URL such as redis://host:port/0"
    url = text if "://" in text else f"redis://{text}"
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or any(character.isspace() for character in url):
        raise InvalidSettingError("redis", text, rule)
    return url if parts.path.strip("/") else f"{url.rstrip('/')}/0"
