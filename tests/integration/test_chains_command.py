"""`celery rebound chains` lists the keys whose records wait in order, and lets one go on."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from rebound_celery import Message, Rebound, RetryPolicy
from rebound_celery.message.address import KafkaAddress
from rebound_celery.message.place import offset_of, place_of
from rebound_celery.operate.cli.commands import rebound as command
from rebound_celery.registry import ChainChange

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "billing/orders/3/user-17"


@pytest.fixture
def rebound(redis_url: str) -> Iterator[Rebound]:
    rebound = Rebound(Celery("shop", broker=redis_url, set_as_current=False))
    yield rebound
    rebound.close()


def message(number: int, attempt: int = 1, **fields: Any) -> Message:
    return Message(f"m{number}", b"v", KafkaAddress("orders"), attempt, RetryPolicy(), **fields)


def run(rebound: Rebound, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["chains", *arguments], obj=SimpleNamespace(app=rebound.app))


@pytest.fixture
def held(rebound: Rebound) -> Rebound:
    """A Rebound with a held chain of three messages, and one that waits for its retry."""
    dead = message(1, 2, reason="retries-exhausted", dead_destination=KafkaAddress("orders-dlq"))
    rebound.chains.change(
        [
            ChainChange("finish", NAME, place_of(812, "m1"), 2, dead, 0, hold=True),
            ChainChange("arrive", NAME, place_of(813, "m2"), 1, message(2)),
            ChainChange("arrive", NAME, place_of(814, "m3"), 1, message(3)),
            ChainChange("wait", "billing/orders/4/x", place_of(9, "m4"), 2, message(4, 2), 2**42),
        ]
    )
    return rebound


def test_chains_are_listed_as_lines_and_as_json(held: Rebound) -> None:
    lines = run(held).stdout.splitlines()

    assert [line.split() for line in lines] == [
        ["held", "812", "2", "behind", NAME],
        ["sent", "9", "0", "behind", "billing/orders/4/x"],
    ]
    (only,) = run(held, "--held", "--json").stdout.splitlines()
    assert json.loads(only) == {"name": NAME, "state": "held", "offset": 812, "behind": 2}
    assert len(run(held, "--limit", "1").stdout.splitlines()) == 1
    assert run(held, "--prefix", "billing/orders/4/").stdout.split()[-1] == "billing/orders/4/x"


def test_released_chain_goes_on(held: Rebound) -> None:
    result = run(held, "--release", NAME)

    assert (result.exit_code, result.stdout) == (0, f"{NAME} goes on: 2 records were behind the head\n")
    (chain, _) = held.chains.page()
    assert (offset_of(chain.place), chain.state, chain.behind) == (813, "sent", 1)


def test_name_that_no_chain_has_is_an_error(held: Rebound) -> None:
    result = run(held, "--release", "user-17")

    assert result.exit_code == 2
    assert "no records wait for 'user-17'" in result.stderr


def test_redis_that_is_away_is_an_error_of_one_line() -> None:
    result = run(Rebound(Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)))

    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "Redis" in result.stderr
