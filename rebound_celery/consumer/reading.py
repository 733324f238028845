"""Turns kafka-python's records into the records for the handler."""

from __future__ import annotations

import logging

from ..message import Origin, Record
from ..message.headers import KafkaRecord, read_record
from ..message.ids import derive_record_id
from ..redaction import NO_REDACTION, Redactor

logger = logging.getLogger(__name__)


def read_safely(raw: KafkaRecord, group: str, redact: Redactor = NO_REDACTION) -> Record:
    """Return the result of `read_record`. If it fails, return a first attempt with all headers.

    This never raises, because a producer's data must not stop the consumer's loop.
    """
    try:
        return read_record(raw, group)
    except Exception as error:  # noqa: BLE001 - headers are a producer's data
        redact.log(
            logger,
            "the headers of %s[%s]@%s cannot be read; taken as a first attempt",
            raw.topic,
            raw.partition,
            raw.offset,
            error=error,
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
            id=derive_record_id(group, raw.topic, raw.partition, raw.offset, raw.timestamp),
            origin=Origin(raw.topic, raw.partition, raw.offset, raw.timestamp),
        )
