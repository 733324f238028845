"""`celery rebound consume` logs as a worker of the same app does: by Celery's settings and signals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import Process

APP = ("-m", "celery", "-A", "tests.acceptance.apps.logged")
CONSUME = ("rebound", "consume", "--topic", "t", "--group", "g")
HANDLER = ("--handler", "tests.acceptance.apps.logged_handler:handle")


@pytest.fixture
def said(run_process: Callable[..., Process]) -> Callable[..., list[str]]:
    """`said("setup", *options)` returns the lines of the handler's module that a consumer without servers prints."""

    def run(how: str, *options: str) -> list[str]:
        consumer = run_process(*APP, *CONSUME, *HANDLER, *options, env={"LOGGED": how})
        assert consumer.wait(60) == 1
        assert "cannot reach Redis" in consumer.output
        return [line for line in consumer.output.splitlines() if "said at" in line]

    return run


def test_a_receiver_of_setup_logging_keeps_the_command_from_any_change(said: Callable[..., list[str]]) -> None:
    assert said("setup", "--loglevel", "DEBUG") == ["own set-up ERROR said at error"]


@pytest.mark.parametrize("how", ["", "handler"])
def test_the_level_holds_although_the_app_has_given_the_root_logger_a_handler(
    how: str, said: Callable[..., list[str]]
) -> None:
    lines = said(how, "--loglevel", "ERROR")

    assert [line.partition("] ")[2] for line in lines] == ["said at error"]
    assert ": ERROR/MainProcess]" in lines[0]
    assert len(said(how, "--loglevel", "debug")) == 3


def test_a_root_logger_that_celery_may_not_take_over_keeps_its_handler_and_gets_the_level(
    said: Callable[..., list[str]],
) -> None:
    assert said("kept", "--loglevel", "INFO") == ["earlier INFO said at info", "earlier ERROR said at error"]


def test_a_receiver_of_after_setup_logger_adds_its_handler(said: Callable[..., list[str]]) -> None:
    lines = said("after", "--loglevel", "ERROR")

    assert len(lines) == 2
    assert "added ERROR said at error" in lines


def test_the_log_goes_to_a_file_with_the_name_of_the_consumer(said: Callable[..., list[str]], tmp_path: Path) -> None:
    assert said("", "--logfile", str(tmp_path / "%n.log")) == []

    text = (tmp_path / "consumer.log").read_text()
    assert "said at info" in text
    assert "said at debug" not in text


def test_a_log_file_that_cannot_be_written_is_an_error_of_one_line(
    run_process: Callable[..., Process], tmp_path: Path
) -> None:
    consumer = run_process(*APP, *CONSUME, *HANDLER, "--logfile", str(tmp_path / "nowhere" / "c.log"))

    assert consumer.wait(60) == 2
    assert "Error: --logfile=" in consumer.output
    assert "Traceback" not in consumer.output


def test_all_consumers_of_an_app_log_alike(run_process: Callable[..., Process]) -> None:
    consumers = run_process(*APP, "rebound", "consume", "--all", env={"LOGGED": "setup"})

    assert consumers.wait(60) == 2
    assert "own set-up ERROR logging is set up" in consumers.output


def test_the_reason_of_a_failed_start_is_in_the_log_file_too(
    run_process: Callable[..., Process], tmp_path: Path
) -> None:
    consumer = run_process(*APP, *CONSUME, *HANDLER, "--logfile", str(tmp_path / "c.log"), env={"LOGGED": ""})

    assert consumer.wait(60) == 1
    assert "Error: cannot reach Redis" in consumer.output
    assert "cannot reach Redis" in (tmp_path / "c.log").read_text()


def test_an_empty_name_of_a_log_file_is_refused(run_process: Callable[..., Process]) -> None:
    consumer = run_process(*APP, *CONSUME, *HANDLER, "--logfile", "", env={"LOGGED": ""})

    assert consumer.wait(60) == 2
    assert "Error: --logfile='' cannot be used: it is the path of a file" in consumer.output
