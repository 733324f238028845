"""A kill at every step between two effects: no message is lost, and none is repeated more often than the table says."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.apps.worker import close_redis_connections
from tests.acceptance.crash_points import effects
from tests.acceptance.crash_points.case import Case, Counts
from tests.acceptance.crash_points.scenes import SCENES
from tests.acceptance.crash_points.steps import FLOWS, ON_POOLS, ON_PREFORK, Step, least_and_most
from tests.acceptance.crash_points.table import ELSEWHERE, ROWS, STEPS
from tests.processes import ROOT
from tests.servers import RedisServer

if TYPE_CHECKING:
    from kafka import KafkaProducer

#: How many steps are under way at the same time.
AT_ONCE = 12


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    kafka_brokers: str,
    _producer: KafkaProducer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[Step], Counts]]:
    """`outcomes(step)`: what happened to each message of the step's scene.

    All steps that were chosen are run at once, as many as `AT_ONCE` at a time, each with a Redis database of its own.
    """
    chosen = [
        step
        for item in request.session.items
        if item.path == request.path and (step := getattr(item, "callspec", None)) and (step := step.params.get("step"))
    ]
    markers = tmp_path_factory.mktemp("markers")

    def run(step: Step, database: int) -> Counts:
        url = server.url.removesuffix("/0") + f"/{database}"
        with Case(step, url, kafka_brokers, _producer, markers / str(database)) as case:
            SCENES[step.flow](case)
            counts = case.counts()
            assert len(counts) == case.messages, f"{len(counts)} of {case.messages} messages are left: {counts}"
            return counts

    with RedisServer(options=["--databases", str(len(STEPS))]) as server:
        pool = ThreadPoolExecutor(AT_ONCE)
        running: dict[str, Future[Counts]] = {}
        try:
            # Consumers wait for sessions to run out, workers take the processors to start: the two are mixed.
            random.Random(1).shuffle(chosen)
            for database, step in enumerate(chosen):
                running[step.name] = pool.submit(run, step, database)
            yield lambda step: running[step.name].result()
        finally:
            pool.shutdown(cancel_futures=True)
            close_redis_connections()


@pytest.mark.parametrize("step", [pytest.param(step, id=name.replace(" ", "-")) for name, step in STEPS.items()])
def test_a_kill_at_this_step(step: Step, outcomes: Callable[[Step], Counts]) -> None:
    counts = outcomes(step)

    for message, happened in counts.items():
        assert set(happened) == set(step.outcome), f"{message}: {dict(happened)}"
        for what, times in step.outcome.items():
            least, most = least_and_most(times)
            assert least <= happened[what] <= most, f"{message}: {dict(happened)}"


# The table itself


def test_every_step_of_every_flow_is_in_the_table() -> None:
    """Between any two neighbouring effects of any flow there is a kill, and none is anywhere else."""
    wanted = {f"{flow}: {one} > {next_}" for flow, effects in FLOWS.items() for one, next_ in pairwise(effects)}

    assert {step.place for step in STEPS.values()} == wanted
    assert set(SCENES) == set(FLOWS)
    assert len(STEPS) == sum(map(len, ROWS.values())), "two steps have the same name"


@pytest.mark.parametrize(("pool", "flows"), [*ON_POOLS.items(), ("prefork", ON_PREFORK)])
def test_every_step_of_the_delivery_is_in_the_table_on_every_pool(pool: str, flows: tuple[str, ...]) -> None:
    wanted = {f"{flow}: {one} > {next_}" for flow in flows for one, next_ in pairwise(FLOWS[flow])}

    assert wanted <= {step.place for step in STEPS.values() if step.variant == pool}


def test_every_effect_in_the_product_has_its_steps() -> None:
    kills = [step.kill for step in STEPS.values()]

    assert set(effects.calls()) == set(effects.EFFECTS), "name the new effect's flow and steps"
    assert set(effects.EFFECTS.values()) <= {kill.call for kill in kills}
    scripts = {(kill.when, kill.script) for kill in kills if kill.script is not None}
    assert scripts == {(when, script) for when in ("before", "after") for script in effects.SCRIPTS}


GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text("utf-8")
DOCUMENTED = {
    cells[0]: cells[2]
    for line in GUARANTEES.partition("## The effect of a crash at each step")[2].partition("\n## ")[0].splitlines()
    if line.startswith("| ") and (cells := [cell.strip() for cell in line.strip("|").split("|")])[0] != "killed"
}


def test_the_table_of_the_guarantees_has_the_rows_that_are_tested() -> None:
    assert list(DOCUMENTED) == [*ROWS, *ELSEWHERE]


@pytest.mark.parametrize("row", ROWS)
def test_the_table_of_the_guarantees_tells_of_duplicates_where_there_are_some(row: str) -> None:
    """Its third column is `none` exactly where no step of the row repeats anything."""
    repeats = any(least_and_most(times)[1] > 1 for step in ROWS[row] for times in step.outcome.values())

    assert (DOCUMENTED[row] == "none") == (not repeats)


@pytest.mark.parametrize("place", ELSEWHERE.values())
def test_what_is_tested_elsewhere_is_there(place: str) -> None:
    path, _, name = place.partition("::")

    assert re.search(rf"^def {name}\(", Path(ROOT, path).read_text("utf-8"), re.MULTILINE)
