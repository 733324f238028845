"""The place of a record in its key's chain."""

from __future__ import annotations

from rebound_celery.message.place import offset_of, place_of


def test_records_are_ordered_by_their_offsets() -> None:
    assert sorted([place_of(300, "a"), place_of(20, "b"), place_of(1, "c")]) == [
        place_of(1, "c"),
        place_of(20, "b"),
        place_of(300, "a"),
    ]
    assert offset_of(place_of(2**63 - 1, "a")) == 2**63 - 1


def test_two_records_of_one_offset_have_two_places_and_copies_have_one() -> None:
    assert place_of(5, "a") != place_of(5, "b")
    assert place_of(5, "a") == place_of(5, "a")
