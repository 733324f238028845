"""The command line: the flags of Rebound's Go program, with one dash or two, and some more."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, NoReturn

from rebound_celery import InvalidSettingError, RetryPolicy
from rebound_celery.config import parse_brokers
from rebound_celery.message.address import check_topic

_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_LONGEST_S = 7 * 86_400


def checked(convert: Callable[[str], Any], rule: str) -> Callable[[str], Any]:
    """Return an argparse type. Its error names the value and the rule."""

    def check(text: str) -> Any:
        try:
            return convert(text)
        except InvalidSettingError as error:
            raise argparse.ArgumentTypeError(f"{text!r} cannot be used: {error.allowed}") from None
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} cannot be used: {rule}") from None

    return check


def number(low: float, high: float, *, above: bool = False, kind: Callable[[str], Any] = float) -> Callable[[str], Any]:
    """Return an argparse type for a number between limits. `above` excludes the lower limit."""
    what = "a whole number" if kind is int else "a number"
    limits = f"above {low} and at most {high}" if above else f"from {low} to {high}"

    def convert(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high or (above and value == low):
            raise ValueError(text)
        return value

    return checked(convert, f"it is {what} {limits}")


def parse_duration(text: str) -> float:
    """Return the seconds of 60s, 2m, 1m30s, 500ms, 1.5h. A bare number is in seconds."""
    form = r"(\d+(?:\.\d+)?)(ms|h|m|s)"
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        text += "s"
    if not re.fullmatch(rf"(?:{form})+", text):
        raise ValueError(text)
    seconds = sum(float(count) * _UNITS_S[unit] for count, unit in re.findall(form, text))
    if not 0.001 <= seconds <= _LONGEST_S:
        raise ValueError(text)
    return seconds


def format_duration(seconds: float) -> str:
    """Return a duration in Go's form: 500ms, 1.5s, 1m0s, 1h30m0s."""
    milliseconds = round(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{text}{milliseconds / 1000:g}s"


def parse_range(text: str) -> tuple[float, float]:
    """Return the pair of milliseconds in `10-50`, or in one number."""
    low, _, high = text.partition("-")
    pair = (float(low), float(high or low))
    if not 0 <= pair[0] <= pair[1] <= 60_000:
        raise ValueError(text)
    return pair


def parse_redis(text: str) -> str:
    """Return `host:port` from `host`, `host:port` or `redis://host:port/0`."""
    address = text.removeprefix("redis://").removesuffix("/0")
    if "," in address:
        raise ValueError(text)
    if ":" not in address:
        address += ":6379"
    (checked_address,) = parse_brokers([address])
    return checked_address


def parse_group(text: str) -> str:
    if not text.strip():
        raise ValueError(text)
    return text


class OneLineParser(argparse.ArgumentParser):
    """A parser that prints an error in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


def make_parser(description: str | None) -> argparse.ArgumentParser:
    parser = OneLineParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )

    def flag(name: str, default: Any = None, convert: Any = None, text: str = "", **options: Any) -> None:
        if convert is not None:
            options |= {"type": convert, "default": default, "metavar": options.get("metavar", "X")}
            text += f" (default: {default})" if default is not None else ""
        parser.add_argument(f"--{name}", f"-{name}", help=text, **options)

    brokers = checked(lambda text: ",".join(parse_brokers(text)), "")
    flag("kafka", "localhost:9092", brokers, "Kafka brokers, several with commas", metavar="HOST:PORT")
    redis = checked(parse_redis, "give one server as host:port")
    flag("redis", "localhost:6379", redis, "the Redis server", metavar="HOST:PORT")
    flag("topic", "consumer-benchmark", checked(check_topic, ""), "the topic to produce to and consume")
    group = checked(parse_group, "give the name of a consumer group")
    flag("group", "benchmark-consumer-group", group, "the consumer group")
    flag("failure-rate", 0.3, number(0.0, 1.0), "share of handler calls that fail, 0.0 to 1.0")
    rule = "give a duration such as 60s, 2m or 1m30s, above 0 and at most 168h"
    text = "how long to produce and consume, from when the group is joined: 60s, 2m, 1m30s"
    flag("duration", "60s", checked(parse_duration, rule), text)
    flag("rate", 10.0, number(0, 1_000_000, above=True), "messages produced a second")
    rule = "give milliseconds from 0 to 60000, one number or two as in 10-50"
    flag("handler-ms", "10-50", checked(parse_range, rule), "how long the handler sleeps: 10-50, 20, or 0")
    retries = checked(lambda text: RetryPolicy(max_retries=int(text)).max_retries, "it is a whole number from 0 to 100")
    flag("max-retries", 3, retries, "retries before a message is a dead letter, 0 to 100")
    rule = "it is a number of seconds from 1 to 3600"
    delay = checked(lambda text: RetryPolicy(base_delay=float(text)).base_delay, rule)
    flag("base-delay", 5.0, delay, "seconds before the first retry, 1 to 3600; doubles with each")
    flag("concurrency", 8, number(1, 1000, kind=int), "handler threads")
    parser.add_argument("--ordering", choices=("key",), help="keep the order of each key while a message is retried")
    text = "measure speed on a new topic with so many messages"
    flag("prefill", None, number(1, 100_000_000, kind=int), text, metavar="N")
    text = "start a Kafka and a Redis of its own, and drain them before the end; ignores --kafka and --redis"
    flag("embedded", text=text, action="store_true")
    flag("no-worker", text="start no Celery worker: one of yours redelivers what fails", action="store_true")
    flag("dead-messages", text="count dead letters in the statistics, as DeadMessages", action="store_true")
    flag("json", text="print one JSON object and nothing else", action="store_true")
    return parser
