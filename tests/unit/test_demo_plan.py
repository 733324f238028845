from __future__ import annotations

import pytest

from rebound_celery.demo.plan import Plan
from rebound_celery.demo.producer import message

IDS = [message(number)[0] for number in range(1, 5001)]


def test_the_shares_are_those_that_were_asked_for() -> None:
    plan = Plan(failure_rate=0.3, always_fail_rate=0.05, max_retries=3)
    always = [message_id for message_id in IDS if plan.always_fails(message_id)]
    sometimes = [message_id for message_id in set(IDS) - set(always) if plan.failures(message_id) > 0]

    assert len(always) / len(IDS) == pytest.approx(0.05, abs=0.01)
    assert len(sometimes) / (len(IDS) - len(always)) == pytest.approx(0.3, abs=0.02)


def test_a_picked_message_fails_as_often_as_its_id_says_and_then_succeeds() -> None:
    plan = Plan(failure_rate=1, always_fail_rate=0, max_retries=3)

    assert {plan.failures(message_id) for message_id in IDS} == {1, 2, 3}
    for message_id in IDS[:100]:
        outcomes = [plan.fails(message_id, attempt) for attempt in range(1, 5)]
        assert outcomes == [True] * plan.failures(message_id) + [False] * (4 - plan.failures(message_id))


def test_a_message_that_always_fails_does_so_at_every_attempt() -> None:
    plan = Plan(failure_rate=0, always_fail_rate=1, max_retries=2)

    assert all(plan.fails(message_id, attempt) for message_id in IDS[:100] for attempt in (1, 2, 3, 100))


def test_without_retries_only_those_fail_that_always_do() -> None:
    plan = Plan(failure_rate=1, always_fail_rate=0.05, max_retries=0)

    assert all(plan.fails(message_id, 1) == plan.always_fails(message_id) for message_id in IDS)


def test_nothing_fails_at_rates_of_zero() -> None:
    plan = Plan(failure_rate=0, always_fail_rate=0, max_retries=3)

    assert not any(plan.fails(message_id, 1) for message_id in IDS)


def test_messages_differ_in_their_ids_only_as_their_numbers_do() -> None:
    assert len(set(IDS)) == len(IDS)
    assert message(7) == message(7)
