"""The setting `rebound_metrics_labels`: what the counters of deliveries are divided by, beside their usual labels."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import InvalidSettingError
from .message import Message

#: What a label may be of, beside headers.
_FIELDS = ("client_id", "group", "source")
_HEADER = "header:"
#: The labels that the metrics have anyway.
_TAKEN = frozenset({"attempt", "destination", "le", "message", "queue", "reason", "result", "topic"})
#: The most keys: each one multiplies the number of counters.
_MOST = 5
_RULE = f"its keys are {', '.join(_FIELDS)}, or header:NAME; at most {_MOST}"


@dataclass(frozen=True, slots=True)
class LabelKey:
    """A further label of the counters of deliveries.

    Attributes:
        label: its name, as Prometheus takes it.
        key: what it is of: `source`, `client_id`, `group`, or `header:` and the name of a header.
    """

    label: str
    key: str

    def value_of(self, message: Message) -> str:
        """The value for a message; the empty text if the message has none."""
        if self.key == "source":
            return message.source or ""
        if self.key == "client_id":
            return message.client_id or ""
        if self.key == "group":
            return message.group or ""
        name = self.key.removeprefix(_HEADER)
        value = next((value for header, value in message.headers if header == name), None)
        return "" if value is None else value.decode("utf-8", "replace")


def read_labels(name: str, value: object) -> tuple[LabelKey, ...]:
    """Read the setting: keys, or a text in which commas are between them.

    Raises:
        InvalidSettingError: naming the setting, its value, and what is allowed.
    """
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, Iterable):
        raise InvalidSettingError(name, value, _RULE)
    keys = [key if isinstance(key, LabelKey) else _read(name, key) for key in given if key != ""]
    if len(keys) > _MOST or len({key.label for key in keys}) < len(keys):
        raise InvalidSettingError(name, value, f"{_RULE}, each with a name of its own")
    return tuple(keys)


def _read(name: str, key: object) -> LabelKey:
    text = key.strip() if isinstance(key, str) else ""
    label = re.sub(r"\W", "_", text.replace(":", "_"), flags=re.ASCII)
    is_header = text.startswith(_HEADER) and len(text) > len(_HEADER)
    if not (is_header or text in _FIELDS) or label in _TAKEN:
        raise InvalidSettingError(name, key, _RULE)
    return LabelKey(label, text)
