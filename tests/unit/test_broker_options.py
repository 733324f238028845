"""A wrong one of `broker_transport_options` is refused with its name, its value and what to write."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, signals
from click.testing import CliRunner

from rebound_celery import Rebound, install_schedule
from rebound_celery.broker_options import check_broker_options
from rebound_celery.errors import InvalidSettingError
from rebound_celery.operate.cli.commands import rebound as command
from tests.unit.test_broker_url import COMMANDS

WRONG: list[tuple[str, Any, str]] = [
    ("socket_timeout", "abc", "a number of seconds"),
    ("socket_timeout", 0, "above 0"),
    ("socket_connect_timeout", True, "a number of seconds"),
    ("health_check_interval", "x", "0 turns the checks off"),
    ("health_check_interval", None, "0 turns the checks off"),
    ("visibility_timeout", "1h", "such as 3600"),
    ("max_connections", 0, "a whole number from 1"),
    ("priority_steps", "x", "such as [0, 3, 6, 9]"),
    ("priority_steps", [], "such as [0, 3, 6, 9]"),
    ("priority_steps", [3, 0], "in their order"),
    ("priority_steps", [0, "3"], "whole numbers"),
    ("global_keyprefix", 5, "a text"),
]
RIGHT: list[dict[str, Any]] = [
    {},
    {"socket_timeout": 5, "socket_connect_timeout": None, "health_check_interval": 0, "visibility_timeout": 3600.0},
    {"priority_steps": range(10), "max_connections": None, "global_keyprefix": "shop:"},
    {"priority_steps": (0, 9), "an_option": "of a later kombu"},
]


@pytest.mark.parametrize(("name", "value", "rule"), WRONG)
def test_the_option_its_value_and_the_rule_are_named(name: str, value: object, rule: str) -> None:
    with pytest.raises(InvalidSettingError) as refused:
        check_broker_options("redis://h", {name: value})

    assert str(refused.value).startswith(f'broker_transport_options["{name}"]={value!r} cannot be used: it is ')
    assert rule in str(refused.value)
    check_broker_options("amqp://h", {name: value})


@pytest.mark.parametrize("options", RIGHT)
def test_what_kombu_can_use_is_taken(options: dict[str, Any]) -> None:
    check_broker_options("redis://h", options)
    app = Celery(broker="redis://h", set_as_current=False, broker_transport_options=options)
    install_schedule(app)
    app.connection_for_write().release()


@pytest.mark.parametrize("url", ["sentinel://h:26379", "sentinel://h:1;sentinel://h:2", ["sentinel://h:1"]])
@pytest.mark.parametrize("options", [None, {}, {"master_name": ""}, {"master_name": 5}])
def test_a_broker_behind_sentinel_needs_the_name_of_its_master(url: Any, options: Any) -> None:
    hint = re.escape('write broker_transport_options={"master_name": "mymaster"}')
    with pytest.raises(InvalidSettingError, match=hint):
        check_broker_options(url, options)

    check_broker_options(url, {"master_name": "mymaster"})


def test_options_that_are_no_dict_are_refused() -> None:
    with pytest.raises(InvalidSettingError, match="broker_transport_options='x' cannot be used: it is a dict"):
        check_broker_options("redis://h", "x")


FAULTS: list[tuple[str, Any, str]] = [
    ("sentinel://127.0.0.1:1", {}, 'broker_transport_options["master_name"]=None'),
    ("redis://127.0.0.1:1", {"socket_timeout": "abc"}, "broker_transport_options[\"socket_timeout\"]='abc'"),
    ("redis://127.0.0.1:1", {"priority_steps": "x"}, "broker_transport_options[\"priority_steps\"]='x'"),
    ("redis://127.0.0.1:1", "x", "broker_transport_options='x'"),
]


@COMMANDS
def test_a_command_says_it_in_one_line(arguments: tuple[str, ...]) -> None:
    for url, options, text in FAULTS:
        app = Celery(broker=url, set_as_current=False, broker_transport_options=options)
        Rebound(app)

        done = CliRunner().invoke(command, arguments, obj=SimpleNamespace(app=app, no_color=False))

        assert done.exit_code == 2, done.output
        assert done.stderr.startswith(f"Error: {text} cannot be used: ")
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("url", "options", "text"), FAULTS)
def test_a_call_and_a_connection_say_it(url: str, options: Any, text: str) -> None:
    app = Celery(broker=url, set_as_current=False, broker_transport_options=options)
    rebound = Rebound(app)

    for call in (
        lambda: rebound.schedule_retry("kafka://orders"),
        lambda: rebound.pending.counts(),
        lambda: list(rebound.lanes),
        lambda: list(rebound.endpoints),
        lambda: app.connection_for_write(),
    ):
        with pytest.raises(InvalidSettingError) as refused:
            call()
        assert str(refused.value).startswith(text)


@pytest.mark.parametrize("install", [Rebound, install_schedule])
@pytest.mark.parametrize(("url", "options", "text"), FAULTS)
def test_a_worker_does_not_start(install: Any, url: str, options: Any, text: str) -> None:
    app = Celery(broker=url, set_as_current=False, broker_transport_options=options)
    install(app)

    with pytest.raises(SystemExit) as refused:
        signals.celeryd_init.send(sender="w@here", instance=SimpleNamespace(app=app))
    assert str(refused.value).startswith(f"Error: {text} cannot be used")
