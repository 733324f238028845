"""Chains in a real Redis: only the head is on its way, and the others follow in the order of their places."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest
import redis

from rebound_celery.schedule.port import Answer, Do, Entry, Step
from rebound_celery.schedule.store.claims import ClaimId, End
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store
from tests.scheduling import entry, everything, now_ms, settle, take
from tests.servers import RedisServer, redis_programs, redis_version

if TYPE_CHECKING:
    from collections.abc import Iterator

LANE = "kafka:orders"
CHAIN = "shop/orders/3/user-17"


@pytest.fixture(scope="module", params=redis_programs(), ids=redis_version)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(program=request.param) as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as connection:
        connection.flushall()
        yield connection


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client, QueueKeys("", "q", (0, 3, 6, 9)))


def step(do: Do, place: int, attempt: int = 1, *, chain: str = CHAIN, due_ms: int = 0, **fields: object) -> Step:
    if do in (Do.ARRIVE, Do.WAIT):
        name = f"{place}:{attempt}" if chain == CHAIN else f"{chain}:{place}:{attempt}"
        fields["entry"] = entry(name, due_ms, lane=LANE, priority=3)
    return Step(do, chain, place, attempt, **fields)  # type: ignore[arg-type]


def run(store: Store, *steps: Step, token: str = "me:1", hold_ms: int = 30_000) -> list[Answer]:
    return store.chain(steps, token, hold_ms)


def outcomes(store: Store, *steps: Step, **options: object) -> list[str]:
    return [answer.outcome for answer in run(store, *steps, **options)]  # type: ignore[arg-type]


def block(store: Store, *followers: int) -> None:
    """Let the message at place 1 wait for its second attempt, with these behind it."""
    run(store, step(Do.WAIT, 1, 2, due_ms=now_ms() + 60_000), *(step(Do.ARRIVE, place) for place in followers))


def ids_of(answer: Answer) -> list[str]:
    return [member.id for member in answer.taken]


def test_records_behind_a_waiting_head_stay_in_redis_and_not_in_the_schedule(store: Store) -> None:
    found = outcomes(store, step(Do.WAIT, 1, 2, due_ms=now_ms() + 60_000), step(Do.ARRIVE, 2), step(Do.ARRIVE, 3))

    assert found == ["waits", "behind", "behind"]
    assert store.count() == 1
    (chain,) = store.chains()
    assert (chain.name, chain.place, chain.state, chain.behind) == (CHAIN, 1, "sent", 2)


def test_other_chains_are_not_concerned(store: Store) -> None:
    block(store, 2)

    assert outcomes(store, step(Do.ARRIVE, 7, chain=CHAIN + "8")) == ["taken"]
    assert outcomes(store, step(Do.ARRIVE, 7, chain=CHAIN[:-1])) == ["taken"]


def test_head_that_comes_back_is_taken_and_its_end_gives_those_behind_it(store: Store) -> None:
    block(store, 3, 2, 4)

    assert outcomes(store, step(Do.ARRIVE, 1, 2)) == ["taken"]
    (answer,) = run(store, step(Do.FINISH, 1, 2, want=2))

    assert ids_of(answer) == ["2:1", "3:1"]
    assert answer.is_open


def test_chain_ends_with_its_last_member_and_leaves_nothing(store: Store, client: redis.Redis) -> None:
    block(store, 2)
    run(store, step(Do.ARRIVE, 1, 2))
    run(store, step(Do.FINISH, 1, 2, want=5))

    (answer,) = run(store, step(Do.FINISH, 2, 1, want=5))

    assert (answer.is_open, ids_of(answer)) == (0, [])
    assert store.count() == 0
    assert not [key for key in client.keys("*") if b"chained" in key or b"waiting" in key or b"leas" in key]


def test_taken_message_is_delivered_if_its_taker_is_not_heard_of_again(store: Store) -> None:
    block(store, 2)
    run(store, step(Do.ARRIVE, 1, 2))
    run(store, step(Do.FINISH, 1, 2, want=5), hold_ms=50)
    time.sleep(0.06)

    taken = take(store, lanes=[f"3{LANE}"])

    assert taken.ids == ["2:1"]
    settle(store, taken)
    assert outcomes(store, step(Do.ARRIVE, 2), token="other:1") == ["taken"]


def test_taken_message_that_was_delivered_too_early_is_delivered_again_if_its_taker_is_lost(store: Store) -> None:
    """Somebody runs it at once, or a worker that could not see its delivery's end stores it again."""
    block(store, 2)
    assert outcomes(store, step(Do.ARRIVE, 1, 2), hold_ms=300) == ["taken"]
    store.run_now("1:2")
    early = take(store)
    settle(store, early)

    assert (early.ids, outcomes(store, step(Do.ARRIVE, 1, 2), token="other:1")) == (["1:2"], ["dropped"])
    assert take(store).ids == []
    time.sleep(0.31)

    assert take(store).ids == ["1:2"]
    assert outcomes(store, step(Do.ARRIVE, 1, 2), token="other:2") == ["taken"]


def test_renewed_message_is_not_delivered(store: Store) -> None:
    run(store, step(Do.ARRIVE, 1), hold_ms=50)
    assert outcomes(store, step(Do.RENEW, 1), hold_ms=60_000) == ["renewed"]
    time.sleep(0.06)

    assert take(store, lanes=[f"3{LANE}"]).ids == []
    run(store, step(Do.FINISH, 1))
    assert outcomes(store, step(Do.RENEW, 1)) == ["lost"]


def test_copy_of_what_somebody_has_taken_is_dropped(store: Store) -> None:
    block(store, 2)

    assert outcomes(store, step(Do.ARRIVE, 1, 2), step(Do.ARRIVE, 1, 2)) == ["taken", "dropped"]
    assert outcomes(store, step(Do.ARRIVE, 1, 2), token="me:2") == ["dropped"]


def test_call_that_is_repeated_for_its_answer_was_lost_gives_the_same(store: Store) -> None:
    block(store, 2, 3)

    first = run(store, step(Do.ARRIVE, 1, 2))
    assert run(store, step(Do.ARRIVE, 1, 2)) == first
    first = run(store, step(Do.FINISH, 1, 2, want=5), token="me:2")
    assert run(store, step(Do.FINISH, 1, 2, want=5), token="me:2") == first
    assert ids_of(first[0]) == ["2:1", "3:1"]


def test_copy_of_an_earlier_attempt_is_dropped(store: Store) -> None:
    block(store)
    run(store, step(Do.ARRIVE, 1, 2))
    run(store, step(Do.WAIT, 1, 3, due_ms=now_ms() + 60_000))

    assert outcomes(store, step(Do.ARRIVE, 1, 2), token="me:3") == ["dropped"]
    assert outcomes(store, step(Do.WAIT, 1, 2)) == ["dropped"]
    assert store.get("1:3") is not None
    assert store.get("1:2") is None


def test_follower_that_fails_becomes_the_head_and_waits_for_its_due_time(store: Store) -> None:
    block(store, 2, 3, 4)
    run(store, step(Do.ARRIVE, 1, 2))
    (answer,) = run(store, step(Do.FINISH, 1, 2, want=5))
    assert ids_of(answer) == ["2:1", "3:1", "4:1"]
    due_ms = now_ms() + 60_000

    # 2 was handled, 3 has failed: the step of the last one comes first, so that nothing passes it.
    answers = run(store, step(Do.WAIT, 3, 2, due_ms=due_ms), step(Do.FINISH, 2, 1, want=5))

    assert (answers[-1].is_open, ids_of(answers[-1])) == (1, [])
    waiting = store.get("3:2")
    assert waiting is not None
    assert waiting.due_ms == due_ms
    (chain,) = store.chains()
    assert (chain.place, chain.state, chain.behind) == (3, "sent", 1)


def test_record_from_before_the_head_goes_first(store: Store) -> None:
    """It was handled before, but its offset was not committed."""
    block(store, 2)

    assert outcomes(store, step(Do.ARRIVE, 0)) == ["taken"]
    assert outcomes(store, step(Do.ARRIVE, 1, 2)) == ["behind"]
    (answer,) = run(store, step(Do.FINISH, 0, want=5))
    assert ids_of(answer) == ["1:2", "2:1"]


def test_dead_head_lets_the_chain_go_on(store: Store) -> None:
    block(store, 2)
    run(store, step(Do.ARRIVE, 1, 2))
    letter = entry("1:dead", now_ms(), lane="kafka:orders-dlq", priority=3)

    (answer,) = run(store, step(Do.FINISH, 1, 2, want=1)._replace(entry=letter))

    assert ids_of(answer) == ["2:1"]
    assert store.get("1:dead") is not None


def test_dead_head_holds_the_chain_until_somebody_releases_it(store: Store) -> None:
    block(store, 2)
    run(store, step(Do.ARRIVE, 1, 2))
    letter = entry("1:dead", now_ms(), lane="kafka:orders-dlq", priority=3)

    (answer,) = run(store, step(Do.FINISH, 1, 2, want=1, hold=True)._replace(entry=letter))

    assert (answer.is_open, ids_of(answer)) == (1, [])
    assert store.chains()[0].state == "held"
    assert outcomes(store, step(Do.ARRIVE, 3)) == ["behind"]
    assert outcomes(store, step(Do.ARRIVE, 1, 2)) == ["dropped"]
    (released,) = run(store, Step(Do.RELEASE, CHAIN, 0, 0))
    assert released.is_open == 3
    assert take(store, lanes=[f"3{LANE}"]).ids == ["2:1", "1:dead"]


@pytest.mark.parametrize("hold", [False, True])
def test_head_that_dies_in_a_worker_lets_the_chain_go_on_or_holds_it(store: Store, hold: bool) -> None:
    run(store, step(Do.WAIT, 1, 2, hold=hold), step(Do.ARRIVE, 2))
    taken = take(store, lanes=[f"3{LANE}"])

    run(store, Step(Do.GONE, "", 0, 0, entry("1:2", 0)._replace(stored=b""), hold=True))
    settle(store, taken)

    assert take(store, lanes=[f"3{LANE}"]).ids == ([] if hold else ["2:1"])
    assert store.chains()[0].state == ("held" if hold else "sent")


def test_head_that_the_schedule_gives_up_lets_the_chain_go_on(store: Store) -> None:
    run(store, step(Do.WAIT, 1, 2), step(Do.ARRIVE, 2))

    settle(store, take(store, lanes=[f"3{LANE}"]), "worker-lost")

    assert store.counts().dead == 1
    assert take(store, lanes=[f"3{LANE}"]).ids == ["2:1"]


def test_head_that_is_cancelled_lets_the_chain_go_on(store: Store) -> None:
    block(store, 2)

    assert len(store.cancel("1:2")) == 1

    assert take(store, lanes=[f"3{LANE}"]).ids == ["2:1"]
    assert store.stats()["cancelled"] == 1


def test_head_that_waits_elsewhere_needs_its_lane_and_those_of_others(store: Store) -> None:
    """The lanes of what is stored may be others than those of the step."""
    moved = entry("1:2", now_ms() + 60_000, lane="kafka:other", priority=3)
    behind = entry("2:1", 0, lane="kafka:third", priority=3)
    run(store, step(Do.WAIT, 1, 2)._replace(entry=moved), step(Do.ARRIVE, 2)._replace(entry=behind))

    assert outcomes(store, step(Do.ARRIVE, 1, 2)) == ["taken"]
    (answer,) = run(store, step(Do.FINISH, 1, 2))

    assert answer.is_open
    assert take(store, lanes=["3kafka:third"]).ids == ["2:1"]


def waits_elsewhere(store: Store, place: int) -> str:
    """Let a copy of a follower's message wait in a lane of its own, as after a rate setting that has changed."""
    copy = entry(f"{place}:1", now_ms() + 60_000, lane="kafka:orders|key=user-*", priority=6)
    store.enqueue([copy])
    return copy.id


@pytest.mark.parametrize("end", [Do.FINISH, Do.RELEASE, Do.GONE])
def test_follower_whose_id_waits_in_another_lane_becomes_the_head(store: Store, end: Do) -> None:
    block(store, 2)
    waiting = waits_elsewhere(store, 2)
    fields = {"entry": Entry("1:2", 0, b"")} if end is Do.GONE else {}

    run(store, step(end, 1, 2, **fields))

    taken = take(store)
    assert taken.ids == [waiting]
    settle(store, taken)
    assert take(store).ids == []


def test_chain_breaks_up_though_a_follower_waits_in_another_lane(store: Store) -> None:
    block(store, 2, 3)
    waits_elsewhere(store, 3)

    (answer,) = run(store, step(Do.BREAK_UP, 0, 0))

    assert answer.is_open == 2
    assert sorted(take(store).ids) == ["2:1", "3:1"]


def test_break_up_counts_all_that_were_behind_in_two_lanes(store: Store) -> None:
    block(store, 2, 3)
    other = Step(Do.ARRIVE, CHAIN, 4, 1, entry("4:1", 0, lane="kafka:orders|key=user-*", priority=3))
    run(store, other, step(Do.ARRIVE, 5))

    (answer,) = run(store, step(Do.BREAK_UP, 0, 0))

    assert answer.is_open == 4
    assert not store.chains()


def test_purge_removes_what_is_behind_too(store: Store, client: redis.Redis) -> None:
    block(store, 2, 3)

    assert store.purge() == 3
    assert store.chains() == []
    assert not [key for key in client.keys("*") if b"chained" in key]


def test_waiting_and_leased_counts_and_those_behind(store: Store) -> None:
    block(store, 2, 3)

    counts = store.counts()

    assert (counts.waiting, counts.behind) == (1, 2)


def test_names_are_listed_page_by_page_without_looking_at_what_is_behind(store: Store) -> None:
    for number in range(5):
        run(store, *(step(Do.ARRIVE, place, chain=f"shop/orders/{number}/k") for place in range(3)))

    assert store.chain_names("shop/orders/3/") == ["shop/orders/3/k"]
    first = store.chain_names("shop/", count=3)
    assert [*first, *store.chain_names("shop/", first[-1], 3)] == [f"shop/orders/{n}/k" for n in range(5)]


def test_worker_that_delivers_the_head_does_not_end_what_the_reader_has_taken(store: Store) -> None:
    """Kafka has the record, and a consumer has it too, before the worker has settled it."""
    run(store, step(Do.WAIT, 1, 2), step(Do.ARRIVE, 2))
    claim = ClaimId("w", 1)
    store.claim(claim, 10, 60_000, 60_000, [f"3{LANE}"])
    store.confirm(claim)

    assert outcomes(store, step(Do.ARRIVE, 1, 2)) == ["taken"]
    assert store.settle([End("1:2", claim.token, "done")]) == 0
    assert store.get("1:2") is not None


class Readers:
    """Two readers of three chains: attempts fail, readers forget what they have taken, steps and deliveries repeat or
    come too early."""

    CHAINS = tuple(f"shop/orders/0/{key}" for key in "abc")
    PLACES, ATTEMPTS = 12, 3

    def __init__(self, store: Store, seed: int) -> None:
        self.chance = random.Random(seed)
        self.store = store
        self.ended: dict[str, set[int]] = {chain: set() for chain in self.CHAINS}
        #: What arrives next: chain, place and attempt. The records of a chain arrive in their order at first.
        self.arriving = [(chain, place, 1) for place in range(self.PLACES) for chain in self.CHAINS]
        self.taken: list[tuple[str, int, int]] = []
        self.turns = 0

    def turn(self) -> bool:
        """Make one step. Return False when nothing is left."""
        self.turns += 1
        if self.taken and self.chance.random() < 0.6:
            self.handle(*self.taken.pop(self.chance.randrange(len(self.taken))))
        elif self.arriving:
            chain, place, attempt = self.arriving.pop(0)
            if self.run(step(Do.ARRIVE, place, attempt, chain=chain)).outcome == "taken":
                self.taken.append((chain, place, attempt))
        else:
            return self.deliver() or bool(self.taken or self.store.count())
        return True

    def handle(self, chain: str, place: int, attempt: int) -> None:
        assert self.ended[chain] >= set(range(place)), f"{place} of {chain} is handled before those before it"
        if self.chance.random() < 0.15:
            return  # the reader was killed
        if attempt < self.ATTEMPTS and self.chance.random() < 0.3:
            self.run(step(Do.WAIT, place, attempt + 1, chain=chain))
            return
        self.ended[chain].add(place)
        answer = self.run(step(Do.FINISH, place, attempt, chain=chain, want=self.chance.randint(0, 4)))
        self.taken += [(chain, member.place, member.attempt) for member in answer.taken[:1]]

    def run(self, one: Step) -> Answer:
        token = f"reader:{self.turns}"
        if self.chance.random() < 0.2:
            run(self.store, one, token=token, hold_ms=20)  # its answer is lost
        return run(self.store, one, token=token, hold_ms=20)[0]

    def deliver(self) -> bool:
        if self.chance.random() < 0.2:
            self.store.run_now(*(one.id for one in everything(self.store)[:2]))
        due = take(self.store, lanes=[f"3{LANE}"])
        for claimed in due.messages:
            chain, place, attempt = claimed.id.split(":")
            copies = 2 if self.chance.random() < 0.1 else 1
            self.arriving += [(chain, int(place), int(attempt))] * copies
        settle(self.store, due)
        if not due.messages:
            time.sleep(0.005)
        return bool(due.messages)


@pytest.mark.parametrize("seed", range(6))
def test_order_holds_and_nothing_is_left_whatever_fails_repeats_or_is_forgotten(store: Store, seed: int) -> None:
    readers = Readers(store, seed)

    while readers.turn():
        assert readers.turns < 5000

    assert readers.ended == {chain: set(range(readers.PLACES)) for chain in readers.CHAINS}
    assert store.chains() == []
    assert store.count() == 0
