"""The names and the numbers of the statistics."""

from __future__ import annotations

import json

from rebound_celery.consumer import ConsumerStats


def test_attributes_have_pythons_names_and_json_has_the_seeds() -> None:
    stats = ConsumerStats(succeeded=411, retried=176)
    assert (stats.total, stats.succeeded, stats.retried, stats.errors, stats.dead) == (587, 411, 176, 0, 0)
    assert json.loads(stats.to_json()) == {
        "TotalMessages": 587,
        "SuccessfulMessages": 411,
        "RetriedMessages": 176,
        "ErrorMessages": 0,
        "DeadMessages": 0,
        "SuccessRate": 70.02,
        "RetryRate": 29.98,
    }
    assert stats.to_json().startswith('{\n  "TotalMessages": 587,')


def test_nothing_yet_is_no_division_by_zero() -> None:
    assert (ConsumerStats().success_rate, ConsumerStats().retry_rate) == (0.0, 0.0)


def test_the_total_is_the_sum_of_the_outcomes_without_what_was_skipped() -> None:
    assert ConsumerStats(succeeded=1, retried=2, dead=3, errors=4, skipped=5).total == 10
