"""Rules by error, and what handlers raise: which exceptions they are for, and what follows."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebound_celery import DeadLetter, Drop, ErrorRule, InvalidSettingError, RetryAfter, RetryPolicy
from rebound_celery.policy import DeadLetter as DeadLetterDecided
from rebound_celery.policy import Decision, Failure, Retry, decide
from rebound_celery.policy import Drop as DropDecided
from rebound_celery.policy.causes import instruction_of, names_of
from rebound_celery.policy.declared import with_imported_names
from rebound_celery.policy.instructions import Instruction

NOW_MS = 1_700_000_000_000
RETRIED = Retry(NOW_MS + 5000, 2)


class ShopError(Exception):
    """An error of an application."""


class PaymentError(ShopError):
    """A kind of it."""


def after(rules: list[ErrorRule], error: BaseException | None, failure: Failure | None = None) -> Decision:
    return decide(RetryPolicy(rules=rules), 1, failure, first_failed_at_ms=None, now_ms=NOW_MS, error=error)


def caused(error: BaseException, *causes: BaseException) -> BaseException:
    """Return `error` with a chain of causes, as `raise error from cause` sets it."""
    for one, cause in zip((error, *causes), causes, strict=False):
        one.__cause__ = cause
    return error


def raised_while_handling(handled: Exception) -> Exception:
    """Return an exception as one that is raised in the `except` block of another one, without `from`."""
    error = KeyError("the handler's own fault")
    error.__context__ = handled
    return error


@pytest.mark.parametrize("error", [PaymentError, "tests.unit.test_policy_rules.PaymentError", [KeyError, PaymentError]])
def test_a_rule_names_a_class_by_itself_or_as_text(error: Any) -> None:
    assert after([ErrorRule(error, "drop")], PaymentError("no")) == DropDecided("rule")
    assert after([ErrorRule(error, "drop")], ShopError("no")) == RETRIED


def test_a_rule_is_for_subclasses_and_causes_too() -> None:
    rules = [ErrorRule(ShopError, "dead-letter")]

    assert after(rules, PaymentError()) == DeadLetterDecided("rule")
    assert after(rules, caused(RuntimeError(), OSError(), PaymentError())) == DeadLetterDecided("rule")
    assert after(rules, ExceptionGroup("one", [PaymentError()])) == DeadLetterDecided("rule")
    assert after(rules, ExceptionGroup("two", [PaymentError(), KeyError()])) == RETRIED


def test_what_was_only_being_handled_is_no_cause() -> None:
    error = raised_while_handling(PaymentError())

    assert after([ErrorRule(ShopError, "drop")], error) == RETRIED


def test_the_first_rule_that_fits_counts() -> None:
    rules = [ErrorRule(PaymentError, delay=60), ErrorRule(ShopError, "drop"), ErrorRule("Exception", "dead-letter")]

    assert after(rules, PaymentError()) == Retry(NOW_MS + 60_000, 2)
    assert after(rules, ShopError()) == DropDecided("rule")
    assert after(rules, KeyError()) == DeadLetterDecided("rule")
    assert after(rules, KeyboardInterrupt()) == RETRIED


def test_a_rule_has_a_delay_and_a_dead_letter_topic_of_its_own() -> None:
    policy = RetryPolicy(1, 5, rules=[ErrorRule(OSError, delay=0.5, dead_letter_topic="net-dlq")])

    def decided(attempt: int, error: BaseException) -> Decision:
        return decide(policy, attempt, None, first_failed_at_ms=None, now_ms=NOW_MS, error=error)

    assert decided(1, TimeoutError()) == Retry(NOW_MS + 500, 2)
    assert decided(2, TimeoutError()) == DeadLetterDecided("retries-exhausted", "net-dlq")
    assert decided(1, DeadLetter("broken")) == DeadLetterDecided("broken")
    assert decided(1, caused(DeadLetter("broken"), TimeoutError())) == DeadLetterDecided("broken", "net-dlq")
    assert decided(1, DeadLetter("broken", topic="own")) == DeadLetterDecided("broken", "own")


def test_without_an_exception_the_rule_is_for_the_name_in_the_failure() -> None:
    rules = [ErrorRule("shop.PaymentError", "drop")]

    assert after(rules, None, Failure("shop.PaymentError", "no")) == DropDecided("rule")
    assert after(rules, None, Failure("", "only a text")) == RETRIED


def test_a_rule_that_retries_does_not_retry_what_can_never_succeed() -> None:
    failure = Failure("x", "too large", permanent=True)

    assert after([ErrorRule(Exception, delay=1)], KeyError(), failure) == DeadLetterDecided("rejected")
    assert after([ErrorRule(Exception, "drop")], KeyError(), failure) == DropDecided("rule")


# What handlers raise


@pytest.mark.parametrize(
    ("raised", "decision"),
    [
        (RetryAfter(0), Retry(NOW_MS, 2)),
        (RetryAfter(90.5), Retry(NOW_MS + 90_500, 2)),
        (DeadLetter("no such customer"), DeadLetterDecided("no such customer")),
        (DeadLetter(topic="parked"), DeadLetterDecided("given-up", "parked")),
        (Drop("cancelled"), DropDecided("cancelled")),
        (Drop(), DropDecided("dropped")),
    ],
)
def test_the_handler_decides_itself_from_anywhere_in_the_chain(raised: Instruction, decision: Decision) -> None:
    rules = [ErrorRule(Exception, "drop")]

    assert after([], raised) == decision
    assert after(rules, raised) == decision, "before any rule"
    assert after([], caused(ShopError(), KeyError(), raised)) == decision
    assert after([], ExceptionGroup("of a task group", [raised])) == decision


def test_an_instruction_that_was_only_being_handled_is_none() -> None:
    assert instruction_of(raised_while_handling(Drop())) is None


def test_a_chain_without_end_is_read_so_far() -> None:
    one, other = ShopError(), KeyError()
    one.__cause__, other.__cause__ = other, one

    assert instruction_of(one) is None
    assert {"KeyError", "Exception"} < names_of(one)


def test_the_failure_of_an_instruction_is_its_cause() -> None:
    assert Failure.of(caused(DeadLetter("x"), KeyError("k"))) == Failure("KeyError", "'k'")
    assert Failure.of(DeadLetter("x")).message == "x"


@pytest.mark.parametrize("raised", [RetryAfter(3), DeadLetter("a", topic="b"), Drop("c")])
def test_an_instruction_survives_the_way_to_another_process(raised: Instruction) -> None:
    copy = pickle.loads(pickle.dumps(raised))

    assert (type(copy), copy.args, vars(copy)) == (type(raised), raised.args, vars(raised))


@pytest.mark.parametrize("seconds", [-1, -0.001, float("nan"), float("inf"), 10 * 365 * 86_400 + 1, "5", None, True])
def test_a_delay_outside_of_the_limits_is_refused(seconds: Any) -> None:
    with pytest.raises(InvalidSettingError, match=r"^seconds=.* cannot be used: RetryAfter takes seconds from 0 to"):
        RetryAfter(seconds)


@pytest.mark.parametrize("reason", ["", " ", None, 7, b"x"])
def test_a_reason_is_a_text(reason: Any) -> None:
    for kind in (DeadLetter, Drop):
        with pytest.raises(InvalidSettingError, match=r"^reason=.* cannot be used: it is a text"):
            kind(reason)


def test_a_long_reason_is_cut_and_a_topic_is_checked() -> None:
    assert len(DeadLetter("x" * 10_000).reason) == 200
    with pytest.raises(InvalidSettingError, match=r"^topic='a b' cannot be used: a Kafka topic has"):
        DeadLetter("x", topic="a b")


# What cannot be used in a rule


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"error": ()}, "error=() cannot be used: give an exception class, or its name with its module"),
        ({"error": int}, "error=<class 'int'> cannot be used"),
        ({"error": "not a name"}, "error='not a name' cannot be used"),
        ({"error": 7}, "error=7 cannot be used"),
        ({"error": ["ValueError", ""]}, "error='' cannot be used"),
        ({"then": "park"}, "then='park' cannot be used: it is one of 'retry', 'dead-letter', 'drop'"),
        ({"delay": -1}, "delay=-1 cannot be used: it must be a number of seconds from 0 to 315360000"),
        ({"delay": 1, "then": "drop"}, "delay=1 cannot be used: 'drop' has no delay; only 'retry' has one"),
        ({"dead_letter_topic": "a b"}, "dead_letter_topic='a b' cannot be used: a Kafka topic has"),
        ({"dead_letter_topic": "x", "then": "drop"}, "dead_letter_topic='x' cannot be used: 'drop' writes no"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused_with_field_value_and_limits(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidSettingError) as refused:
        ErrorRule(**{"error": ValueError, **options})

    assert text in str(refused.value)


def test_a_name_becomes_the_name_that_the_class_itself_has() -> None:
    policy = with_imported_names(RetryPolicy(rules=[ErrorRule("concurrent.futures.CancelledError")]))

    assert policy.rules[0].names == ("concurrent.futures._base.CancelledError",)  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("NoSuchError", "Python has no exception of this name"),
        ("no_such_package.Timeout", "it cannot be imported: No module named 'no_such_package'"),
        ("json.NoSuchError", "it cannot be imported: there is no such class in the module 'json'"),
        ("json.loads", "it cannot be imported: it is no exception class in the module 'json'"),
        ("int", "Python has no exception of this name"),
    ],
)
def test_a_name_that_cannot_be_imported_is_refused(name: str, text: str) -> None:
    with pytest.raises(InvalidSettingError) as refused:
        with_imported_names(RetryPolicy(rules=[ErrorRule(KeyError), ErrorRule(name)]))

    assert str(refused.value).startswith(f"rules[1].error={name!r} cannot be used")
    assert text in str(refused.value)


def test_a_class_that_was_given_need_not_be_importable() -> None:
    made = type("NoSuchKey", (Exception,), {"__module__": "botocore.errorfactory"})

    policy = with_imported_names(RetryPolicy(rules=[ErrorRule(made, "drop")]))

    assert policy.rules[0].names == ("botocore.errorfactory.NoSuchKey",)  # type: ignore[index]
    assert after(list(policy.rules), made()) == DropDecided("rule")


def test_a_stored_policy_may_name_what_only_its_maker_can_import() -> None:
    """Replaying a dead letter takes its policy, in a process that need not have the consumer's packages."""
    wire = RetryPolicy(rules=[ErrorRule("only.the_consumer.HasThisError", "drop")]).to_wire()

    policy = with_imported_names(RetryPolicy.from_wire(wire))

    assert policy.to_wire() == wire


@given(st.lists(st.sampled_from([ValueError, OSError, ShopError, PaymentError, KeyError]), min_size=1))
def test_names_are_those_of_all_classes_in_the_chain(kinds: list[type[Exception]]) -> None:
    errors = [kind() for kind in kinds]

    names = names_of(caused(*errors))

    assert {"Exception", "BaseException"} < names
    assert all(any(name.endswith(kind.__name__) for name in names) for kind in kinds[:20])


def test_a_rule_whose_delay_is_longer_than_the_budget_is_refused() -> None:
    """None of its retries would be due in time: the first failure would be a dead letter."""
    rules = [ErrorRule(KeyError), ErrorRule(ValueError, delay=61)]
    begin = r"^rules\[1\]\.delay=61 cannot be used: it is longer than the budget of 60 s, .*then='dead-letter'$"
    with pytest.raises(InvalidSettingError, match=begin):
        RetryPolicy(budget=60, rules=rules)

    assert RetryPolicy(budget=61, rules=rules).rules == tuple(rules)
    assert RetryPolicy(budget=60, max_delay=30, rules=rules).longest_delay_s == 30
