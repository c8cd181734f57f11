"""Turns at hosts: concurrency, rate, closed windows, breakers, and how much is remembered."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import DEADLINE_S, SteppedClock, until

from indexer.errors import Unavailable
from indexer.network import pacing as limits
from indexer.network.pacing import Pacing

A, B = "https://a.example.com", "https://b.example.com"


@pytest.fixture
def pacing(clock) -> Pacing:
    return Pacing(clock=clock, rate=1000.0)


class Worker:
    """A request that holds its turn until it is told to end."""

    def __init__(self, pacing, origin, **options) -> None:
        self.has_turn = False
        self._end = asyncio.Event()
        self.task = asyncio.create_task(self._run(pacing, origin, options))

    async def _run(self, pacing, origin, options) -> None:
        async with pacing.turn(origin, **options):
            self.has_turn = True
            await self._end.wait()

    async def end(self) -> None:
        self._end.set()
        await self.task


async def settled() -> None:
    """Let every task run as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def attempt(pacing, origin, **options) -> None:
    async with pacing.turn(origin, **options):
        pass


async def test_a_host_gets_two_requests_at_once_and_others_do_not_wait_for_it(pacing):
    workers = [Worker(pacing, A) for _ in range(4)]
    other = Worker(pacing, B)
    await settled()
    assert [w.has_turn for w in workers] == [True, True, False, False]
    assert other.has_turn
    await workers[0].end()
    await settled()
    assert [w.has_turn for w in workers] == [True, True, True, False]  # in the order of asking
    for worker in (*workers[1:], other):
        await worker.end()


async def test_a_cancelled_wait_leaves_its_place(pacing):
    first = [Worker(pacing, A) for _ in range(2)]
    waiting = Worker(pacing, A)
    await settled()
    waiting.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting.task
    for worker in first:
        await worker.end()
    await attempt(pacing, A)
    assert [host.users for host in pacing._hosts.values()] == [0]


async def test_beyond_its_burst_a_host_is_asked_at_the_rate(pacing, clock):
    for _ in range(2000):  # two seconds' worth
        await attempt(pacing, A)
    worker = Worker(pacing, A)
    await asyncio.sleep(0.02)  # many times 1/rate of real time, in which the clock stands still
    assert not worker.has_turn
    clock.at += 0.0015
    await until(lambda: worker.has_turn)
    await worker.end()


async def test_a_window_closes_for_as_long_as_the_host_asks(pacing, clock):
    assert pacing.refused(A, 278.0) == 278.0
    with pytest.raises(Unavailable) as caught:
        await attempt(pacing, A)
    assert caught.value.retry_after_s == pytest.approx(278.0)
    await attempt(pacing, B)
    clock.at += 278.0
    await attempt(pacing, A)


async def test_a_short_window_is_waited_for(pacing, clock):
    pacing.refused(A, 5.0)
    clock.at += 4.99
    worker = Worker(pacing, A)
    await settled()
    assert not worker.has_turn and not worker.task.done()
    clock.at += 0.01
    await until(lambda: worker.has_turn)
    await worker.end()


def test_refusals_without_a_time_double_from_a_minute_to_an_hour(clock, pacing):
    pauses = []
    for _ in range(9):
        pauses.append(pacing.refused(A, None))
        clock.at += pauses[-1]
    assert pauses == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0, 3600.0]
    pacing.answered(A)
    assert pacing.refused(A, None) == 60.0


def test_requests_refused_together_count_once(pacing, clock):
    assert pacing.refused(A, None) == 60.0
    clock.at += 1.0
    assert pacing.refused(A, None) == pytest.approx(59.0)
    clock.at += 60.0
    assert pacing.refused(A, None) == 120.0


def test_absurd_waits_are_clamped_to_an_hour(pacing):
    assert pacing.refused(A, 1e12) == 3600.0
    assert pacing.refused(B, 0.001) == 1.0


def test_a_later_refusal_never_shortens_a_window(pacing):
    pacing.refused(A, 100.0)
    assert pacing.refused(A, 5.0) == 100.0


async def test_a_host_that_keeps_failing_is_left_alone_and_others_are_not(pacing, clock):
    for _ in range(limits.FAILURES_MAX - 1):
        pacing.failed(A)
    await attempt(pacing, A)
    pacing.failed(A)
    with pytest.raises(Unavailable):
        await attempt(pacing, A)
    await attempt(pacing, B)
    clock.at += 60.0
    await attempt(pacing, A)  # one try; it fails again: twice as long
    pacing.failed(A)
    assert pacing.closed_s(A) == 120.0
    for _ in range(10):
        clock.at += pacing.closed_s(A)
        pacing.failed(A)
    assert pacing.closed_s(A) == limits.FAILURE_PAUSE_S_MAX
    clock.at += 600.0
    pacing.answered(A)
    pacing.failed(A)
    assert pacing.closed_s(A) == 0.0


def test_a_burst_of_failures_at_once_closes_a_window_for_a_minute_only(pacing, clock):
    for _ in range(50):
        pacing.failed(A)
    assert pacing.closed_s(A) == 60.0


async def test_a_group_is_asked_as_much_as_four_hosts_whatever_their_names(clock):
    pacing = Pacing(clock=clock, rate=1000.0)
    names = [f"https://{n}.example.com" for n in range(20)]
    workers = [Worker(pacing, name, groups=["domain example.com"]) for name in names]
    other = Worker(pacing, B, groups=["domain other.com"])
    await settled()
    assert sum(w.has_turn for w in workers) == 2 * limits.GROUP_WIDTH
    assert other.has_turn
    for worker in workers:
        worker._end.set()
    await asyncio.gather(*(worker.task for worker in workers))
    await other.end()


async def test_hosts_that_share_two_groups_never_wait_for_each_other_in_a_circle(clock):
    pacing = Pacing(clock=clock, rate=100_000.0, concurrency=1, requests_max=1)
    groups = ["address 1", "domain x", "address 2"]

    async def run(number: int) -> None:
        for _ in range(20):
            await attempt(pacing, f"https://{number % 7}", groups=groups[number % 3 :] + groups[:1])

    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(run(number) for number in range(30)))
    assert all(host.users == 0 for host in pacing._hosts.values())


async def test_strangers_share_one_bound_that_the_operators_hosts_do_not_wait_for(clock):
    pacing = Pacing(clock=clock, rate=1000.0, requests_max=3)
    workers = [Worker(pacing, f"https://{n}.example.com") for n in range(5)]
    trusted = Worker(pacing, "https://plc.example.org", is_trusted=True)
    await settled()
    assert sum(w.has_turn for w in workers) == 3
    assert trusted.has_turn
    await workers[0].end()
    await settled()
    assert sum(w.has_turn for w in workers) == 4
    for worker in (*workers[1:], trusted):
        worker._end.set()
    await asyncio.gather(*(w.task for w in (*workers, trusted)))


async def test_hosts_that_failed_get_a_quarter_of_the_places_and_do_not_wait_for_them(clock):
    """500 hosts that hang leave room for the healthy ones, and nobody stands in line for them."""
    pacing = Pacing(clock=clock, rate=1000.0, requests_max=20)
    hanging = [f"https://{n}.hanging.example.com" for n in range(500)]
    for origin in hanging:
        pacing.failed(origin)
    doubtful = [Worker(pacing, origin) for origin in hanging]
    await settled()
    assert sum(w.has_turn for w in doubtful) == 5
    refused = [w.task.exception() for w in doubtful if w.task.done()]
    assert len(refused) == 495 and all(isinstance(error, Unavailable) for error in refused)
    healthy = [Worker(pacing, f"https://{n}.healthy.example.com") for n in range(15)]
    await settled()
    assert all(w.has_turn for w in healthy)
    holders = [w for w in doubtful if w.has_turn]
    for worker in (*holders, *healthy):
        await worker.end()
    pacing.answered(hanging[-1])
    await attempt(pacing, hanging[-1])


async def test_a_place_that_does_not_come_free_is_no_fault_of_the_host(clock):
    pacing = Pacing(clock=clock, rate=1000.0, concurrency=1, turn_s_max=0.02)
    holder = Worker(pacing, A)
    await settled()
    with pytest.raises(Unavailable, match="busy with our own requests"):
        await attempt(pacing, A)
    await holder.end()
    await attempt(pacing, A)
    assert pacing._hosts[A].failures == 0


async def test_the_table_of_hosts_is_bounded(clock):
    pacing = Pacing(clock=clock, rate=10.0, hosts_max=100)
    pacing.refused(A, 3000.0)
    for number in range(1000):
        await attempt(pacing, f"https://{number}.example.com", groups=[f"domain {number}"])
    assert len(pacing) == 100
    with pytest.raises(Unavailable):  # a closed window outlives idle hosts with an open one
        await attempt(pacing, A)


async def test_hosts_in_use_are_not_forgotten(clock):
    pacing = Pacing(clock=clock, rate=10.0, hosts_max=3)
    async with AsyncExitStack() as stack:
        for number in range(6):
            await stack.enter_async_context(pacing.turn(f"https://{number}.example.com"))
        assert len(pacing) == 6
    await attempt(pacing, A)
    assert len(pacing) == 6  # one goes for each that comes
    pacing.refused(A, 3000.0)
    for number in range(6):
        pacing.refused(f"https://closed{number}.example.com", 3000.0)
    assert len(pacing) == 6


@given(st.lists(st.tuples(st.sampled_from("rtfa"), st.floats(0, 5000)), max_size=60))
def test_no_window_is_longer_than_an_hour_whatever_happens(events):
    clock = SteppedClock()
    pacing = Pacing(clock=clock, rate=10.0)
    for what, amount in events:
        match what:
            case "r":
                pacing.refused(A, amount)
            case "t":
                clock.at += amount
            case "f":
                pacing.failed(A)
            case _:
                pacing.refused(A, None)
        assert 0.0 <= pacing.closed_s(A) <= 3600.0
