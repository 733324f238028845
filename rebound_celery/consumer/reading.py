"""From what kafka-python gives to what a handler gets; nothing that a producer wrote may stop the loop."""

from __future__ import annotations

import logging

from ..message import Origin, Record, derive_id
from ..message.headers import KafkaRecord, read_record

logger = logging.getLogger(__name__)


def read_safely(raw: KafkaRecord, group: str) -> Record:
    """A record as `read_record` gives it; if even that fails, a first attempt with all its headers."""
    try:
        return read_record(raw, group)
    except Exception:
        logger.exception(
            "the headers of %s[%s]@%s cannot be read; taken as a first attempt",
            raw.topic,
            raw.partition,
            raw.offset,
            extra={"event": "broken_headers", "topic": raw.topic, "partition": raw.partition, "offset": raw.offset},
        )
        return Record(
            topic=raw.topic,
            partition=raw.partition,
            offset=raw.offset,
            timestamp=raw.timestamp,
            key=raw.key,
            value=raw.value,
            headers=tuple(raw.headers),
            id=derive_id(group, raw.topic, raw.partition, raw.offset, raw.timestamp),
            origin=Origin(raw.topic, raw.partition, raw.offset, raw.timestamp),
        )
