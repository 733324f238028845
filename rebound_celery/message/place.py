"""The place of a record in the chain of its key: its offset, and a number that tells records of one offset apart.

Topics are deleted and created again with the same name, while records of the earlier topic wait in chains. A record of
the new topic can have the offset of one of these. It is no copy of it, and both must be handled.
"""

from __future__ import annotations

from zlib import crc32

_ID_BITS = 32


def place_of(offset: int, record_id: str) -> int:
    """Return the place of a record. A higher offset gives a higher place.

    Args:
        offset: the offset at which the record was first read.
        record_id: the record's id. It is derived from the record's timestamp too, and all copies have the same.
    """
    return offset << _ID_BITS | crc32(record_id.encode())


def offset_of(place: int) -> int:
    """Return the offset of the record at a place."""
    return place >> _ID_BITS
