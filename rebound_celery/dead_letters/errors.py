"""The errors of dead letters that commands and pages tell plainly."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InvalidSettingError


class NoTopicError(InvalidSettingError):
    """There is no such topic in the app's Kafka. Name another one, or create it."""

    def __init__(self, topic: str, near: Sequence[str] = ()) -> None:
        hint = f"; there is {' and '.join(near)}" if near else ""
        super().__init__("source", topic, f"Kafka has no topic with this name{hint}")
        self.topic = topic
        self.near = tuple(near)

    def __reduce__(self) -> tuple[type, tuple[str, Sequence[str]]]:  # type: ignore[override]
        return type(self), (self.topic, self.near)
