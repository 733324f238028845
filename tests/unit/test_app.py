"""`Rebound(app)` on apps of every kind: its changes to the app, the time at which it reads settings, and its errors."""

from __future__ import annotations

import base64
import gc
import json
import pickle
import re
import subprocess
import sys
import time
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from celery import Celery
from celery.result import AsyncResult
from kombu import Exchange, Queue
from kombu.transport import memory

import rebound_celery
from rebound_celery import (
    InvalidSettingError,
    NotInstalledError,
    Rebound,
    RetryPolicy,
    RetryRequest,
    Settings,
    install_schedule,
)
from rebound_celery.celery_conf import LiveSetting
from rebound_celery.errors import ReboundError
from rebound_celery.message import Message, codec, message_id_of
from rebound_celery.message.address import DEAD_SET, Address, HttpAddress, KafkaAddress

EVENTS = ("worker_send_task_events", "task_send_sent_event")


def make_app(name: str = "shop", **options: Any) -> Celery:
    return Celery(name, broker="memory://", set_as_current=False, **options)


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """(queue, message) of what is put on queues of the memory transport."""
    puts: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(memory.Channel, "_put", lambda _channel, queue, message, **_: puts.append((queue, message)))
    monkeypatch.setattr(memory.Channel, "_put_fanout", lambda *_, **__: None)
    return puts


def message_in(put: tuple[str, dict[str, Any]]) -> Message:
    """What the argument of a delivery task holds."""
    body = json.loads(base64.b64decode(put[1]["body"]))
    message, _ = codec.decode(message_id_of(put[1]["headers"]["id"]), base64.b64decode(body[0][0]))
    return message


@dataclass
class Order:
    number: int


class Charge(msgspec.Struct):
    number: int


class Model:
    """As pydantic's."""

    def model_dump(self) -> dict[str, int]:
        return {"number": 1}


@pytest.mark.parametrize(
    ("part", "advice"),
    [
        (Order(1), "dataclasses.asdict(it)"),
        (Charge(1), "msgspec.to_builtins(it)"),
        (Model(), 'it.model_dump(mode="json")'),
    ],
)
def test_a_value_of_a_class_that_json_has_not_is_refused_with_what_to_give(part: object, advice: str) -> None:
    for value in (part, {"orders": [part]}):
        with pytest.raises(InvalidSettingError, match=r"^value=") as refused:
            Rebound(make_app()).schedule_retry("kafka://orders", value)

        assert f"{type(part).__name__} is not JSON serializable; give {advice}" in str(refused.value)


# What it adds, and when


def test_nothing_is_read_and_nothing_connects_on_construction() -> None:
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.config_from_object("a_module.that_does_not_exist_yet")

    Rebound(app)

    assert not app.configured
    assert "amqp" not in app.__dict__
    assert not app.finalized


def test_construction_takes_less_than_ten_milliseconds() -> None:
    def seconds() -> float:
        app = make_app()
        started = time.perf_counter()
        Rebound(app)
        return time.perf_counter() - started

    assert min(seconds() for _ in range(5)) < 0.01


def test_the_app_gets_two_tasks_and_one_queue_beside_its_own() -> None:
    app = make_app()
    Rebound(app)

    assert app.tasks.keys() - make_app().tasks.keys() == {"rebound.deliver", "rebound.job"}
    assert set(app.amqp.queues) == {"celery", "rebound"}
    assert set(app.amqp.queues.consume_from) == {"celery", "rebound"}
    assert app.amqp.queues["rebound"].routing_key == "rebound"


def test_the_apps_own_tasks_still_go_to_its_default_queue(stored: list[Any]) -> None:
    app = make_app()
    Rebound(app)

    app.send_task("shop.pay")

    assert [queue for queue, _ in stored] == ["celery"]


def test_settings_that_come_after_rebound_are_used() -> None:
    app = make_app()
    rebound = Rebound(app)
    app.conf.rebound_queue = "retries"
    app.conf.rebound_max_retries = 0

    assert (rebound.settings.queue, rebound.settings.max_retries) == ("retries", 0)
    assert "retries" in app.amqp.queues


@pytest.mark.parametrize("before", [True, False], ids=["configured before", "configured after"])
def test_a_config_object_may_come_before_or_after(before: bool) -> None:
    config = types.SimpleNamespace(rebound_queue="retries", rebound_kafka_brokers="k1:9092")
    app = make_app()
    if before:
        app.config_from_object(config)
    rebound = Rebound(app)
    if not before:
        app.config_from_object(config)

    assert (rebound.settings.queue, rebound.settings.kafka_brokers) == ("retries", ("k1:9092",))
    assert "retries" in app.amqp.queues


@pytest.mark.parametrize("before", [True, False], ids=["configured before", "configured after"])
def test_djangos_namespace_is_read(before: bool) -> None:
    django_settings = types.SimpleNamespace(CELERY_REBOUND_QUEUE="retries", CELERY_BROKER_URL="memory://", DEBUG=True)
    app = Celery("shop", set_as_current=False)
    if before:
        app.config_from_object(django_settings, namespace="CELERY")
    rebound = Rebound(app)
    if not before:
        app.config_from_object(django_settings, namespace="CELERY")

    assert rebound.settings.queue == "retries"
    assert set(app.amqp.queues) == {"celery", "retries"}


def test_arguments_win_over_the_configuration() -> None:
    app = make_app()
    app.conf.rebound_queue = "from-conf"

    assert Rebound(app, queue="from-argument").settings.queue == "from-argument"


def test_environment_variables_fill_in_what_the_configuration_leaves_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REBOUND_KAFKA_BROKERS", "k1:9092")

    assert Rebound(make_app()).settings.kafka_brokers == ("k1:9092",)


def test_a_second_rebound_on_an_app_is_refused_and_both_places_are_named() -> None:
    app = make_app()
    first = Rebound(app, queue="a")
    with pytest.raises(InvalidSettingError, match=r"has a Rebound already, from \S+test_app.py:\d+, and ") as refused:
        Rebound(app, queue="b")

    first_line, second_line = map(int, re.findall(r"test_app\.py:(\d+)", str(refused.value)))
    assert second_line == first_line + 2
    assert (app.rebound, first.settings.queue) == (first, "a")
    assert set(app.amqp.queues) == {"celery", "a"}


def test_an_app_that_was_refused_for_its_broker_may_get_a_rebound_later() -> None:
    app = Celery("shop", broker="amqp://localhost", set_as_current=False)
    with pytest.raises(ReboundError, match="broker"):
        Rebound(app)

    app.conf.broker_url = "memory://"

    assert Rebound(app) is app.rebound


def test_a_schedule_beside_that_of_rebound_is_refused_and_both_places_are_named() -> None:
    app = make_app()
    Rebound(app)
    with pytest.raises(InvalidSettingError, match="has the schedule already") as refused:
        install_schedule(app, {"lease": 5})

    assert str(refused.value).count("test_app.py:") == 2


def test_rebound_says_that_it_takes_the_place_of_a_schedule(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()
    install_schedule(app, {"lease": 5})
    Rebound(app)

    (record,) = [record for record in caplog.records if record.__dict__.get("event") == "schedule_replaced"]
    assert "test_app.py:" in record.getMessage()


@pytest.mark.parametrize("install", [Rebound, install_schedule])
def test_what_is_no_app_is_refused_without_its_password(install: Callable[[Any], object]) -> None:
    with pytest.raises(InvalidSettingError, match="it is a Celery app") as refused:
        install("redis://:secret@localhost/0")

    assert "secret" not in str(refused.value)


def test_an_unknown_setting_is_refused_by_name() -> None:
    with pytest.raises(InvalidSettingError, match="max_retires=3 cannot be used: there is no such setting"):
        Rebound(make_app(), max_retires=3)


class SettingsModule:
    """What a module of settings has beside settings, as a module imports it."""

    CELERY_REBOUND_MAX_RETRYS = 5
    CELERY_REBOUND_QUEUE = "retries"
    REBOUND_HANDLERS = "no setting of Celery's, because it lacks the namespace"
    rebound_celery = rebound_celery


@pytest.mark.parametrize("way", ["attribute", "mapping", "namespace"])
def test_a_misspelt_setting_in_the_configuration_is_told(way: str, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()
    rebound = Rebound(app)
    if way == "attribute":
        app.conf.rebound_max_retrys = 5
    elif way == "mapping":
        app.config_from_object({"rebound_max_retrys": 5, "rebound_base_delay": 2})
    else:
        app.config_from_object(SettingsModule, namespace="CELERY")

    assert rebound.settings.max_retries == 3
    told = [record.getMessage() for record in caplog.records if record.name == "rebound_celery.celery_conf"]
    assert told == ["there is no setting rebound_max_retrys, so it has no effect; is it rebound_max_retries?"]


def test_a_bad_setting_is_told_when_it_is_first_used_not_before() -> None:
    rebound = Rebound(make_app(), max_retries=101)

    with pytest.raises(InvalidSettingError, match="rebound_max_retries=101"):
        rebound.schedule_retry("kafka://orders")


def test_an_app_with_task_queues_of_its_own_keeps_them_and_gets_rebounds() -> None:
    app = make_app()
    app.conf.task_queues = [Queue("fast", Exchange("fast"), routing_key="fast"), Queue("slow")]
    Rebound(app)

    assert set(app.amqp.queues.consume_from) == {"fast", "slow", "rebound"}


def test_an_app_that_creates_no_missing_queues_gets_rebounds(stored: list[Any]) -> None:
    app = make_app()
    app.conf.task_create_missing_queues = False
    app.conf.task_queues = [Queue("celery")]
    rebound = Rebound(app)

    rebound.schedule_retry("kafka://orders")

    assert set(app.amqp.queues) == {"celery", "rebound"}
    assert [queue for queue, _ in stored] == ["rebound"]


def test_a_queue_of_that_name_that_the_app_declares_is_the_one_used() -> None:
    app = make_app()
    own = Queue("rebound", Exchange("own"), routing_key="own")
    app.conf.task_queues = [Queue("celery"), own]
    Rebound(app)

    assert app.amqp.queues["rebound"].exchange.name == "own"


def test_an_app_that_was_used_already_gets_the_queue_too() -> None:
    app = make_app()
    assert set(app.amqp.queues) == {"celery"}

    Rebound(app)

    assert set(app.amqp.queues.consume_from) == {"celery", "rebound"}
    assert "rebound.deliver" in app.tasks


def test_an_app_that_is_finalized_already_gets_the_task_too() -> None:
    app = make_app()
    app.finalize()

    Rebound(app)

    assert "rebound.deliver" in app.tasks


def test_selecting_queues_on_the_command_line_still_works() -> None:
    """`celery worker -Q celery` and `-X rebound` call these."""
    selecting, excluding = make_app(), make_app()
    Rebound(selecting)
    Rebound(excluding)

    selecting.amqp.queues.select(["celery"])
    excluding.amqp.queues.deselect(["rebound"])

    assert set(selecting.amqp.queues.consume_from) == {"celery"}
    assert set(excluding.amqp.queues.consume_from) == {"celery"}


def test_apps_in_one_process_have_queues_settings_and_brokers_of_their_own(stored: list[Any]) -> None:
    shop, stock, plain = make_app("shop"), make_app("stock"), make_app("plain")
    rebounds = [Rebound(shop, queue="shop-retries", max_retries=1), Rebound(stock, queue="stock-retries")]

    for rebound in rebounds:
        rebound.schedule_retry("kafka://orders")

    assert [queue for queue, _ in stored] == ["shop-retries", "stock-retries"]
    assert [message_in(put).policy.max_retries for put in stored] == [1, 3]
    assert set(shop.amqp.queues) == {"celery", "shop-retries"}
    assert set(stock.amqp.queues) == {"celery", "stock-retries"}
    assert set(plain.amqp.queues) == {"celery"}
    assert "rebound.deliver" not in plain.tasks
    assert shop.tasks["rebound.deliver"].app is shop
    assert stock.tasks["rebound.deliver"].app is stock


@pytest.mark.parametrize("name", ["rebound.deliver", "rebound.job"])
def test_the_tasks_keep_their_promises_whatever_the_app_sets_for_its_own(name: str) -> None:
    app = make_app()
    app.conf.update(
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        task_retry_on_worker_lost=True,
        task_acks_on_failure=True,
        task_acks_on_timeout=True,
        task_annotations={
            "*": {"max_retries": 3, "expires": 60, "acks_late": False, "rate_limit": "10/s", "priority": 6}
        },
    )
    Rebound(app)

    task = app.tasks[name]
    assert (task.acks_late, task.reject_on_worker_lost, task.retry_on_worker_lost) == (True, True, False)
    assert (task.acks_on_failure, task.acks_on_timeout) == (False, False)
    assert (task.max_retries, task.expires, task.rate_limit) == (None, None, None)
    assert task.priority == 6


def test_an_app_that_nobody_uses_is_garbage() -> None:
    """Tests and factories make many apps in one process."""

    def weak_app(*, rebound: bool) -> weakref.ref[Celery]:
        app = make_app()
        if rebound:
            Rebound(app).schedule_retry("kafka://orders")
        return weakref.ref(app)

    references = [weak_app(rebound=True), weak_app(rebound=False)]
    gc.collect()

    assert [reference() for reference in references] == [None, None]


def test_an_app_with_rebound_pickles_as_celery_apps_do() -> None:
    """Celery pickles the app for processes that it spawns."""
    app = make_app()
    app.conf.rebound_queue = "retries"
    assert pickle.loads(pickle.dumps(app)).conf.rebound_queue == "retries"
    with_rebound = make_app()
    with_rebound.conf.rebound_queue = "retries"
    Rebound(with_rebound)

    assert pickle.loads(pickle.dumps(with_rebound)).conf.rebound_queue == "retries"


def test_importing_rebound_loads_no_kafka_or_http_client_and_scheduling_neither() -> None:
    code = """
import sys, rebound_celery, celery
rebound = rebound_celery.Rebound(celery.Celery("shop", broker="memory://"))
rebound.schedule_retry("kafka://orders", b"x")
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"kafka", "urllib3", "rich", "flower", "tornado"}))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)

    assert result.stdout.split() == []


# Events


def _nothing(app: Celery, name: str) -> None:
    """The app says nothing."""


def _by_attribute(app: Celery, name: str) -> None:
    setattr(app.conf, name, False)


def _by_update(app: Celery, name: str) -> None:
    app.conf.update({name: False})


def _by_object(app: Celery, name: str) -> None:
    app.config_from_object(types.SimpleNamespace(**{name: False}))


def _by_mapping(app: Celery, name: str) -> None:
    app.config_from_object({name: False})


def _by_namespace(app: Celery, name: str) -> None:
    app.config_from_object(types.SimpleNamespace(**{f"CELERY_{name.upper()}": False}), namespace="CELERY")


WAYS = [_by_attribute, _by_update, _by_object, _by_mapping, _by_namespace]


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_events_are_on_so_that_flower_shows_something(name: str, used: bool) -> None:
    app = make_app()
    if used:
        assert app.conf.broker_url
    Rebound(app)

    assert app.conf[name] is True


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("way", WAYS)
def test_events_are_off_where_the_app_says_so(
    name: str, way: Callable[[Celery, str], None], before: bool, used: bool
) -> None:
    app = make_app()
    if used:
        assert app.conf.broker_url
    if before:
        way(app, name)
    Rebound(app)
    if not before:
        way(app, name)

    assert app.conf[name] is LiveSetting(app, name)() is False
    (other,) = set(EVENTS) - {name}
    assert app.conf[other] is True


def test_a_live_setting_follows_every_change() -> None:
    app = make_app()
    always_eager = LiveSetting(app, "task_always_eager")
    seen = [always_eager()]

    for way in WAYS:
        app.conf.task_always_eager = True
        seen.append(always_eager())
        if way is not _by_namespace:
            way(app, "task_always_eager")
            seen.append(always_eager())

    assert seen == [False, *[True, False] * 4, True]


# What schedule_retry makes of its arguments


@pytest.mark.parametrize(
    ("data", "value", "content_type"),
    [
        (b"\x00\xff", b"\x00\xff", None),
        (bytearray(b"ab"), b"ab", None),
        pytest.param(memoryview(b"ab"), b"ab", None, id="memoryview"),
        (b"", b"", None),
        (None, None, None),
        ("Größe", "Größe".encode(), "text/plain; charset=utf-8"),
        ("", b"", "text/plain; charset=utf-8"),
        ({"a": [1, None, "ö"]}, '{"a":[1,null,"ö"]}'.encode(), "application/json"),
        ([], b"[]", "application/json"),
        (0, b"0", "application/json"),
        (False, b"false", "application/json"),
    ],
    ids=repr,
)
def test_message_data_may_be_bytes_text_nothing_or_what_json_can_hold(
    data: Any, value: bytes | None, content_type: str | None, stored: list[Any]
) -> None:
    Rebound(make_app()).schedule_retry("kafka://orders", data)

    message = message_in(stored[0])
    assert (message.value, message.content_type) == (value, content_type)


@pytest.mark.parametrize(
    ("options", "destination", "dead_destination"),
    [
        ({"destination": "kafka://orders"}, KafkaAddress("orders"), KafkaAddress("orders-dlq")),
        (
            {"destination": {"host": "k1", "port": 9093, "topic": "orders"}},
            KafkaAddress("orders", "k1:9093"),
            KafkaAddress("orders-dlq", "k1:9093"),
        ),
        (
            {"destination": {"topic": "orders", "partition": 2}},
            KafkaAddress("orders", partition=2),
            KafkaAddress("orders-dlq"),
        ),
        ({"destination": "orders", "destination_type": "kafka"}, KafkaAddress("orders"), KafkaAddress("orders-dlq")),
        ({"destination": "http://receiver/"}, HttpAddress("http://receiver/"), DEAD_SET),
        (
            {"destination": "http://receiver/", "dead_destination": "kafka://dead"},
            HttpAddress("http://receiver/"),
            KafkaAddress("dead"),
        ),
        (
            {"destination": "kafka://orders", "dead_destination": {"url": "http://receiver/dead"}},
            KafkaAddress("orders"),
            HttpAddress("http://receiver/dead"),
        ),
    ],
)  # fmt: skip
def test_destinations_are_taken_in_each_form_and_a_dead_one_is_found(
    options: dict[str, Any], destination: Address, dead_destination: Address, stored: list[Any]
) -> None:
    Rebound(make_app()).schedule_retry(**options)

    message = message_in(stored[0])
    assert (message.destination, message.dead_destination) == (destination, dead_destination)


def test_every_field_of_the_seed_travels(stored: list[Any]) -> None:
    result = Rebound(make_app()).schedule_retry(
        id="order-7",
        source="api",
        destination="kafka://orders",
        dead_destination="kafka://graveyard",
        max_retries=4,
        base_delay=2,
        client_id="c-7",
        is_priority=True,
        message_data={"n": 7},
        destination_type="kafka",
        key="k",
        headers={"trace": "t"},
        error=ValueError("bad"),
        attempt=2,
    )

    message = message_in(stored[0])
    assert result.id == "order-7:3" == stored[0][1]["headers"]["id"]
    assert (message.id, message.source, message.client_id, message.key) == ("order-7", "api", "c-7", b"k")
    assert (message.attempt, message.policy) == (3, RetryPolicy(4, 2))
    assert message.headers == (("trace", b"t"),)
    assert message.dead_destination == KafkaAddress("graveyard")
    assert str(message.failure) == "ValueError: bad"


@pytest.mark.parametrize(("attempt", "delay_s"), [(1, 5), (2, 10), (3, 20)])
def test_the_due_time_follows_the_policy(attempt: int, delay_s: float, stored: list[Any]) -> None:
    from datetime import datetime

    before = time.time()
    Rebound(make_app()).schedule_retry("kafka://orders", attempt=attempt, max_retries=3, base_delay=5)
    after = time.time()

    due = datetime.fromisoformat(stored[0][1]["headers"]["eta"]).timestamp()
    assert before + delay_s - 0.001 <= due <= after + delay_s


def test_an_attempt_beyond_the_last_is_a_dead_letter_at_once_with_its_stack_trace(stored: list[Any]) -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        1 / 0  # noqa: B018
    Rebound(make_app()).schedule_retry("kafka://orders", error=raised.value, max_retries=0)

    message = message_in(stored[0])
    assert (message.reason, message.attempt, message.target) == ("retries-exhausted", 1, KafkaAddress("orders-dlq"))
    assert message.failure is not None
    assert "test_app.py" in message.failure.stacktrace
    assert stored[0][1]["headers"]["eta"] is None


@pytest.mark.parametrize(
    ("options", "field"),
    [
        *[({"max_retries": value}, "max_retries") for value in [101, -1, 2.5, "3", True]],
        *[({"base_delay": value}, "base_delay") for value in [0, 3601, float("nan"), float("inf"), "5"]],
        *[({"attempt": value}, "attempt") for value in [0, -1, 102, 1.0, "1", True]],
        *[({"destination": value}, "destination") for value in [None, "", "orders", "http://", "kafka://a b", 7]],
        ({"dead_destination": "nowhere"}, "dead_destination"),
        ({"destination_type": "amqp"}, "destination_type"),
        ({"destination_type": "http"}, "destination"),
        *[({"id": value}, "id") for value in ["", True, b"x"]],
        *[({"client_id": value}, "client_id") for value in ["", True]],
        *[({"key": value}, "key") for value in [True, ["k"]]],
        *[({"headers": value}, "headers") for value in [7, "text", {"a": ["x"]}, {1: "a"}, [("a",)]]],
        *[({"message_data": value}, "value") for value in [..., {1, 2}, {"a": print}]],
    ],
    ids=repr,
)
def test_bad_input_is_refused_by_name_before_anything_is_stored(
    options: dict[str, Any], field: str, stored: list[Any]
) -> None:
    rebound = Rebound(make_app())

    with pytest.raises(InvalidSettingError, match=f"^{field}"):
        rebound.schedule_retry(**{"destination": "kafka://orders", **options})
    outcomes = rebound.schedule_retries([{"destination": "kafka://orders", **options}])

    assert [type(outcome) for outcome in outcomes] == [InvalidSettingError]
    assert stored == []


def _endless() -> list[Any]:
    data: list[Any] = []
    data.append(data)
    return data


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("value", value) for value in [float("nan"), {"a": float("inf")}, "\udcff", {"a": "\udcff"}, _endless()]],
        ("key", "\udcff"),
        ("headers", {"a": "\udcff"}),
    ],
    ids=repr,
)
def test_what_is_no_valid_json_or_text_is_refused_as_other_bad_input_is(
    field: str, value: Any, stored: list[Any]
) -> None:
    with pytest.raises(InvalidSettingError, match=f"^{field}"):
        Rebound(make_app()).schedule_retry("kafka://orders", **{"message_data" if field == "value" else field: value})
    assert stored == []


def test_a_misspelt_option_is_a_type_error_as_for_any_function() -> None:
    with pytest.raises(TypeError, match="max_retires"):
        Rebound(make_app()).schedule_retry("kafka://orders", max_retires=3)


def test_requests_may_be_mappings_under_either_name_of_the_value_or_retry_requests(stored: list[Any]) -> None:
    outcomes = Rebound(make_app()).schedule_retries(
        [
            {"destination": "kafka://orders", "value": b"1"},
            {"destination": "kafka://orders", "message_data": b"2"},
            RetryRequest(destination="kafka://orders", value=b"3"),
        ]
    )

    assert [message_in(put).value for put in stored] == [b"1", b"2", b"3"]
    assert all(isinstance(outcome, AsyncResult) for outcome in outcomes)


@pytest.mark.parametrize(
    "one", [{"destination": "kafka://orders"}, "kafka://orders", RetryRequest(destination="kafka://orders")]
)
def test_one_message_in_place_of_several_is_refused(one: Any) -> None:
    with pytest.raises(InvalidSettingError, match="give several: a list of mappings"):
        Rebound(make_app()).schedule_retries(one)


def test_a_caller_who_does_not_look_at_the_outcomes_finds_errors_in_the_log(
    stored: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    Rebound(make_app()).schedule_retries([{"destination": "kafka://orders"}, {"destination": "orders"}])

    assert len(stored) == 1
    (line,) = [record.getMessage() for record in caplog.records if record.name == "rebound_celery.scheduling"]
    assert line.startswith("1 of 2 messages are not scheduled; the first error: destination='orders' cannot be used")


def test_one_bad_request_among_many_fails_alone_and_in_its_place(stored: list[Any]) -> None:
    outcomes = Rebound(make_app()).schedule_retries(
        [
            {"destination": "kafka://orders", "id": "a"},
            {"destination": "nowhere"},
            {"destination": "kafka://orders", "id": "b", "is_priority": True},
            {"destination": "kafka://orders", "max_retires": 3},
            {},
            "no mapping",
            {"destination": "kafka://orders", "id": "c"},
        ]  # type: ignore[list-item]
    )

    assert [getattr(outcome, "id", type(outcome).__name__) for outcome in outcomes] == [
        "a:2", "InvalidSettingError", "b:2", "InvalidSettingError", "InvalidSettingError", "InvalidSettingError", "c:2",
    ]  # fmt: skip
    assert sorted(message_in(put).id for put in stored) == ["a", "b", "c"]


# Without Rebound, and without a worker


@pytest.mark.parametrize(
    "call",
    [
        lambda: rebound_celery.schedule_retry("kafka://orders"),
        lambda: rebound_celery.schedule_retries([{"destination": "kafka://orders"}]),
    ],
)
def test_an_app_without_rebound_is_told_what_to_write(call: Callable[[], Any]) -> None:
    Celery("plain", broker="memory://").set_current()

    with pytest.raises(NotInstalledError, match=r"'plain' has no Rebound; write `Rebound\(app\)`"):
        call()


def run_in_a_thread(*apps: str) -> str:
    """What `schedule_retry` prints in a thread that has no current app, in a process of its own with these apps."""
    program = f"""
import threading
from celery import Celery
import rebound_celery

def call():
    try:
        print(rebound_celery.schedule_retry("kafka://orders", delay=60).app.main)
    except rebound_celery.NotInstalledError as error:
        print(error)

apps = [Celery(name, broker="memory://") for name in {apps!r}]
rebounds = [rebound_celery.Rebound(app) for app in apps if app.main != "plain"]
thread = threading.Thread(target=call)
thread.start()
thread.join()
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_a_thread_of_a_web_server_finds_the_only_app_with_rebound() -> None:
    assert run_in_a_thread("plain", "shop") == "shop"


def test_a_thread_without_a_current_app_is_told_what_to_do_where_several_apps_have_rebound() -> None:
    told = run_in_a_thread("shop", "stock")

    assert told.startswith("this thread has no current Celery app, and several apps have Rebound (shop, stock); ")
    assert told.endswith("app.set_default()")


def test_a_thread_is_told_what_to_write_where_no_app_has_rebound() -> None:
    assert run_in_a_thread("plain").startswith("the Celery app 'default' has no Rebound; write `Rebound(app)`")


def test_the_module_functions_use_celerys_current_app(stored: list[Any]) -> None:
    shop, stock = make_app("shop"), make_app("stock")
    Rebound(shop, queue="shop-retries")
    Rebound(stock, queue="stock-retries")

    shop.set_current()
    rebound_celery.schedule_retry("kafka://orders")
    stock.set_current()
    rebound_celery.schedule_retries([{"destination": "kafka://orders"}])

    assert [queue for queue, _ in stored] == ["shop-retries", "stock-retries"]


def test_eager_apps_deliver_at_once_and_the_caller_is_told_what_failed(stored: list[Any]) -> None:
    app = make_app()
    app.conf.task_always_eager = True
    rebound = Rebound(app, http_connect_timeout=0.5)

    result = rebound.schedule_retry("http://127.0.0.1:1/", b"x", id="order-7")

    assert (result.id, result.state) == ("order-7:2", "FAILURE")
    with pytest.raises(ReboundError, match=r"POST http://127\.0\.0\.1:1/"):
        result.get(disable_sync_subtasks=False)
    assert stored == []


def test_eager_apps_deliver_each_of_many_at_once(stored: list[Any]) -> None:
    app = make_app()
    app.conf.task_always_eager = True
    rebound = Rebound(app, http_connect_timeout=0.5)

    failed, wrong = rebound.schedule_retries(
        [
            {"destination": "http://127.0.0.1:1/", "value": b"x", "id": "order-7"},
            {"destination": "http://127.0.0.1:1/", "base_delay": 0},
        ]
    )

    assert isinstance(failed, AsyncResult)
    assert (failed.id, failed.state) == ("order-7:2", "FAILURE")
    assert isinstance(wrong, InvalidSettingError)
    app.conf.task_eager_propagates = True
    (error,) = rebound.schedule_retries([{"destination": "http://127.0.0.1:1/", "value": b"x"}])
    assert isinstance(error, ReboundError), "one message does not stop the others"
    assert stored == []


def test_the_log_of_an_eager_app_promises_no_attempt(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()
    app.conf.task_always_eager = True
    rebound = Rebound(app, http_connect_timeout=0.5, kafka_brokers="127.0.0.1:1", kafka_timeout=0.5)

    for destination in ("http://127.0.0.1:1/", "kafka://orders"):
        caplog.clear()
        rebound.schedule_retry(destination, b"x")
        (line,) = [
            record.getMessage() for record in caplog.records if record.name.startswith("rebound_celery.delivery")
        ]
        assert "nothing follows, because it was delivered in the caller's process" in line
        assert "attempt 3" not in line
        assert "again" not in line


def test_the_defaults_of_the_app_are_those_of_the_policy() -> None:
    assert RetryPolicy(Settings().max_retries, Settings().base_delay) == RetryPolicy()
