"""Any value in settings, environment, addresses or a command line is used, or refused with a clear error."""

from __future__ import annotations

import contextlib
import pathlib
from types import SimpleNamespace
from typing import Any

from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from rebound_celery import RetryRequest, schedule_retry
from rebound_celery.config import Settings, parse_brokers
from rebound_celery.consumer import ConsumerConfig
from rebound_celery.errors import InvalidSettingError, ReboundError, UnreachableError
from rebound_celery.message import codec
from rebound_celery.message.address import parse_address
from rebound_celery.operate.cli.commands import rebound
from rebound_celery.policy import RetryPolicy
from tests.fuzzing import DEEP, QUICK, changed, jsons, scalars, texts

assert schedule_retry  # what RetryRequest stands for

NAMES = sorted(Settings.__dataclass_fields__)
LONG = "9" * 5_000  # more digits than int() takes

values = st.one_of(
    jsons,
    st.binary(max_size=9),
    st.sets(scalars, max_size=3),
    st.tuples(scalars, scalars),
    st.sampled_from([pathlib.Path("x"), object(), str, f"h:{LONG}", LONG, float("nan"), "²", "\0", {1: 2}]),
    st.from_regex(r"\A[a-z0-9.:\[\]]{1,9}:[0-9]{1,6}\Z"),
)


@QUICK
@given(st.dictionaries(st.sampled_from(NAMES), values, max_size=4), st.dictionaries(st.sampled_from(NAMES), texts))
@example({"kafka_brokers": f"h:{LONG}"}, {})
@example({"kafka_options": {1: 2}}, {})
@example({}, {"max_retries": LONG, "base_delay": "nan"})
def test_settings_are_read_or_refused(conf: dict[str, Any], environ: dict[str, str]) -> None:
    try:
        settings = Settings.read(
            {f"rebound_{name}": value for name, value in conf.items()},
            {f"REBOUND_{name.upper()}": value for name, value in environ.items()},
        )
    except InvalidSettingError as error:
        refused = error.field.lower().removeprefix("rebound_")
    else:
        refused = None
        assert settings.lease > 0
        assert all(isinstance(broker, str) for broker in settings.kafka_brokers)
        assert all(isinstance(name, str) for name in settings.kafka_options)
    # In a mapping, the place of the value follows the name of the setting.
    assert refused is None or refused.partition("[")[0] in NAMES


POLICIES = {
    "default": {"max_retries": 5, "base_delay": 2, "jitter": "equal", "max_delay": 60, "budget": 900, "rules": [
        {"error": "TimeoutError", "delay": 1}, {"error": ["KeyError"], "then": "dead-letter", "dead_letter_topic": "x"},
    ]},
    "topics": {"orders*": {"delays": [1, 2.5]}, "a": {"kind": "linear", "quick_retries": 2, "quick_delay": 0.5}},
    "destinations": {"https://e.org/*": {"first_delay": 5, "kind": "constant"}},
}  # fmt: skip


@QUICK
@given(changed(POLICIES))
def test_policies_are_read_or_refused_in_their_place(given: Any) -> None:
    fields = ["rebound_policies"]
    try:
        table = Settings.read({"rebound_policies": given}, {}).policies
    except InvalidSettingError as error:
        fields.append(error.field)
    else:
        assert all(RetryPolicy.from_wire(policy.to_wire()) == policy for policy in table.all)
        assert table.find("orders-eu", None) in table.all
    assert fields[-1].startswith("rebound_policies")


@QUICK
@given(values)
def test_brokers_are_read_or_refused_and_read_as_the_same_again(value: Any) -> None:
    with contextlib.suppress(InvalidSettingError):
        assert parse_brokers(parse_brokers(value)) == parse_brokers(value)


urls = st.one_of(
    texts,
    st.builds("{}://{}".format, st.sampled_from(["kafka", "http", "https", "HTTP", "ftp", ""]), texts),
    st.builds("http://{}:{}/{}".format, texts, scalars, texts),
    st.builds("kafka://{}/{}".format, texts, st.from_regex(r"\A[a-z.]{1,9}\Z")),
    st.sampled_from(["http://[::1", "http://[::1]:x/", f"http://h:{LONG}/", f"kafka://h:{LONG}/t", "kafka:///t"]),
)
fields = st.sampled_from(["host", "port", "topic", "url", "brokers", "partition", "dead_set"])


@QUICK
@given(
    st.one_of(values, urls, st.dictionaries(fields, values | urls, max_size=5)),
    st.sampled_from([None, "kafka", "http"]) | scalars,
)
@example({"host": "h", "port": LONG, "topic": "t"}, None)
@example({"topic": "t", "brokers": f"h:{LONG}"}, None)
def test_address_is_read_and_written_the_same_or_refused(value: Any, kind: Any) -> None:
    with contextlib.suppress(InvalidSettingError):
        address = parse_address(value, kind=kind)
        assert parse_address(address.to_wire()) == address
        assert str(address)
        assert repr(address)
        assert hash(address)


@QUICK
@given(
    st.fixed_dictionaries(
        {"destination": urls | values | st.just("kafka://t")},
        optional={
            name: values | st.just("kafka://t")
            for name in RetryRequest.__struct_fields__
            if name not in ("destination", "error")
        },
    )
)
def test_retry_is_a_message_or_refused(arguments: dict[str, Any]) -> None:
    with contextlib.suppress(ReboundError):
        message, due_ms = RetryRequest(**arguments).to_message(Settings(), 1_000)
        assert due_ms >= 1_000
        assert codec.decode(message.id, codec.encode(message))[0] == message


@QUICK
@given(
    st.dictionaries(
        st.sampled_from(sorted(set(ConsumerConfig.__dataclass_fields__) - {"handler"})), values, max_size=4
    ),
    values | st.just(print),
)
def test_consumer_config_is_made_or_refused(arguments: dict[str, Any], handler: Any) -> None:
    with contextlib.suppress(InvalidSettingError):
        config = ConsumerConfig(**{"group": "g", "topics": "t", "handler": handler, **arguments})
        config.policy_for(Settings())
        config.brokers_for(Settings())


def away() -> None:
    raise UnreachableError("Redis", "127.0.0.1:1", "connection refused")


def nothing() -> None:
    """What the app does when a command makes it the current one."""


APP = SimpleNamespace(
    main="fake",
    rebound=SimpleNamespace(settings=Settings(), check_redis=away),
    set_current=nothing,
    set_default=nothing,
    loader=SimpleNamespace(init_worker=nothing),
    log=SimpleNamespace(setup=lambda *_, **__: []),
)

#: No letters: no module of that name, such as `this`, may be imported.
paths = st.text(st.sampled_from("0_.:/\\é\0 ²"), max_size=6)
given_options = st.one_of(
    st.tuples(st.just("--topic"), texts),
    st.tuples(st.just("--pattern"), texts | st.sampled_from(["(", "a{99999999999}", "(" * 5_000 + ")" * 5_000, "(?x"])),
    st.tuples(st.just("--handler"), paths),
    st.tuples(st.sampled_from(["--max-retries", "--base-delay", "--concurrency"]), scalars.map(str)),
    st.tuples(st.sampled_from(["--brokers", "--retry-topic", "--dead-letter-topic", "--group"]), texts),
    st.tuples(
        st.just("--option"),
        texts | st.builds("session_timeout_ms={}".format, texts) | st.sampled_from([f"a={DEEP}", f"a={LONG}"]),
    ),
    st.tuples(st.just("--health-file"), texts.filter(lambda text: not text or "\0" in text)),
    st.tuples(texts),
)


@QUICK
@given(st.lists(given_options, max_size=4))
@example([("--topic", "t"), ("--option", f"a={DEEP}")])
@example([("--pattern", "a{99999999999}")])
@example([("--pattern", "(" * 5_000 + ")" * 5_000)])
def test_command_line_ends_with_a_status_and_never_with_a_stack_trace(options: list[tuple[str, ...]]) -> None:
    arguments = ["consume", "--group", "g", "--handler", "builtins:print", "--loglevel", "ERROR"]
    arguments += [word for option in options for word in option]

    result = CliRunner().invoke(rebound, arguments, obj=SimpleNamespace(app=APP, no_color=False))

    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (0, 1, 2)
    assert "Traceback" not in result.output
