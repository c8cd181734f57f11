"""Losses of the stream, seen, said and repaired by a whole daemon."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from tests.devnet import Account, Devnet, FaultKind, realistic_record
from tests.e2e.daemon import RunningDaemon, ShiftedClock, running_daemon, wait_until
from tests.e2e.test_operation_runs import metric
from tests.oracle import wait_until_equal

ADMIN = "pub.chive.admin."
INDEXER = "pub.chive.indexer."
TAG = "pub.chive.eprint.userTag"
RNG = random.Random(3)
EQUAL_S = 20.0


def settings(net: Devnet, **firehose: Any) -> dict[str, dict[str, Any]]:
    return {
        "firehose": {"url": net.relay_url, "start": "oldest", **firehose},
        "identity": {
            "plc_url": net.plc_url,
            "handle_resolver_url": net.handle_resolver_url,
            "refresh_interval_s": 0,
        },
        "network": {"allow_private_hosts": True, "requests_per_s_per_host": 1000},
    }


def tag(net: Devnet, account: Account) -> None:
    net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))


async def accounts_with_records(net: Devnet, count: int) -> list[Account]:
    accounts = [await net.create_account() for _ in range(count)]
    for account in accounts:
        tag(net, account)
    return accounts


async def repaired(net: Devnet, daemon: RunningDaemon, clock: ShiftedClock, *reasons: str) -> None:
    """The gaps are there; when the stream has passed the loss by a minute, all is equal again."""
    await wait_until(
        lambda: daemon.rows("SELECT reason FROM gaps ORDER BY id") == [(each,) for each in reasons],
        what=f"gaps: {reasons}",
    )
    async with asyncio.timeout(EQUAL_S):
        while not (await daemon.query(ADMIN + "getFirehoseStatus"))[1]["connected"]:
            await asyncio.sleep(0.05)
    clock.advance(61.0)
    await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)


async def test_what_an_outdated_cursor_has_lost_is_found_without_any_further_commit(tmp_path: Path):
    async with Devnet(seed=3) as net:
        accounts = await accounts_with_records(net, 3)
        async with running_daemon(tmp_path, settings(net)) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
        newcomer = await net.create_account()
        for account in (accounts[0], newcomer):
            tag(net, account)
        net.relay.stream.trim(0)
        async with running_daemon(tmp_path, settings(net)) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            await wait_until(
                lambda: (
                    daemon.rows("SELECT reason, repaired_at IS NULL FROM gaps")
                    == [("outdated_cursor", 0)]
                ),
                what="the gap to be repaired",
            )
            status, body = await daemon.query(INDEXER + "listGaps")
            assert status == 200
            assert [(gap["reason"], gap["status"]) for gap in body["gaps"]] == [
                ("outdated_cursor", "repaired")
            ]


async def test_who_appeared_in_a_gap_with_a_collection_of_no_type_of_ours_is_found(tmp_path: Path):
    of_nobody, scope = "site.standard.document", ("pub.chive.*", "site.standard.document")
    async with Devnet(seed=3) as net:
        await accounts_with_records(net, 1)
        values = settings(net) | {"scope": {"collections": list(scope)}}
        async with running_daemon(tmp_path, values) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, scope)
        net.create(await net.create_account(), of_nobody, {"$type": of_nobody})
        net.relay.stream.trim(0)
        async with running_daemon(tmp_path, values) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, scope, heads=True)


async def test_what_came_while_a_stream_without_an_event_was_away_is_found(tmp_path: Path):
    """It has no cursor to go on from: neither is the loss told by the relay, nor by a number."""
    async with Devnet(seed=11) as net:
        accounts = await accounts_with_records(net, 2)
        values = settings(net, start="live")
        async with running_daemon(tmp_path, values) as daemon:
            await net.relay.subscriptions.wait_connections(1)
            for account in accounts:
                assert (await daemon.backfill("didSync", did=account.did))["status"] == "completed"
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            assert daemon.rows("SELECT cursor FROM firehose") == []
            assert daemon.rows("SELECT reason FROM gaps") == []
        for account in (accounts[0], await net.create_account()):
            tag(net, account)
        clock = ShiftedClock(time.time())
        async with running_daemon(tmp_path, values, clock=clock) as daemon:
            await repaired(net, daemon, clock, "no_cursor")
            assert await metric(daemon, "chive_firehose_gaps_total", reason="no_cursor") == 1


async def test_a_first_cursor_in_the_settings_is_no_place_at_which_to_join_another_relay(
    tmp_path: Path,
):
    """Its number is one of the first relay's: another may not have come to it for months."""
    async with Devnet(seed=3) as net:
        account, other = await accounts_with_records(net, 2)
        async with running_daemon(tmp_path, settings(net)) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            ((left_at,),) = daemon.rows("SELECT cursor FROM firehose")
        tag(net, account)
        clock = ShiftedClock(time.time())
        url = net.relay_url.replace("127.0.0.1", "localhost")
        joined = settings(net, url=url, start=1_000_000)
        with capture_logs() as logs:
            async with running_daemon(tmp_path, joined, clock=clock) as daemon:
                async with asyncio.timeout(EQUAL_S):
                    while not (await daemon.query(ADMIN + "getFirehoseStatus"))[1]["connected"]:
                        await asyncio.sleep(0.05)
                assert net.relay.subscriptions.cursors[-1] is None
                tag(net, other)
                await repaired(net, daemon, clock, "relay_changed")
                assert await metric(daemon, "chive_firehose_gaps_total", reason="relay_changed")
                _, body = await daemon.query(INDEXER + "listGaps")
                assert [(gap["url"], gap["reason"]) for gap in body["gaps"]] == [
                    (url, "relay_changed")
                ]
                cursors = dict(daemon.rows("SELECT url, cursor FROM firehose"))
                assert cursors == {net.relay_url: left_at, url: net.relay.stream.last_seq}
        warned = [each["event"] for each in logs if each["log_level"] == "warning"]
        assert "gaps.repair_begun" in warned
        async with running_daemon(tmp_path, settings(net)):
            await net.relay.subscriptions.wait_connections(3)
            assert net.relay.subscriptions.cursors[-1] == str(left_at), "its own is gone on from"


async def test_a_swallowed_frame_is_found_when_the_relay_says_that_something_was_lost(
    tmp_path: Path,
):
    async with Devnet(seed=4) as net:
        accounts = await accounts_with_records(net, 2)
        clock = ShiftedClock(time.time())
        async with running_daemon(tmp_path, settings(net), clock=clock) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            swallowed = net.faults.schedule(FaultKind.SWALLOW_FRAME, did=accounts[0].did)
            tag(net, accounts[0])
            said = net.faults.schedule(FaultKind.INFO_FRAME, did=accounts[1].did)
            tag(net, accounts[1])
            await repaired(net, daemon, clock, "outdated_cursor")
            assert swallowed.fired == 1 and said.fired == 1


async def test_a_relay_set_back_is_held_until_the_cursor_is_reset(tmp_path: Path):
    async with Devnet(seed=5) as net:
        accounts = await accounts_with_records(net, 2)
        clock = ShiftedClock(time.time())
        async with running_daemon(tmp_path, settings(net), clock=clock) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            (held,) = daemon.rows("SELECT cursor FROM firehose")
            drop = net.faults.schedule(FaultKind.DROP_CONNECTION)
            net.relay.stream.rewind(2)
            tag(net, accounts[0])
            await net.faults.wait_fired(drop)
            await wait_until(
                lambda: net.relay.subscriptions.connections > 1, what="another connection"
            )
            async with daemon.session.get(f"{daemon.addresses.admin_url}/readyz") as response:
                assert response.status == 503
            assert daemon.rows("SELECT cursor FROM firehose") == [held]
            status, body = await daemon.call(INDEXER + "resetCursor", consent=False)
            assert (status, body["error"]) == (400, "ConsentRequired")
            status, body = await daemon.call(INDEXER + "resetCursor", consent=True, cursor="x")
            assert (status, body["error"]) == (400, "InvalidRequest")
            status, body = await daemon.call(INDEXER + "resetCursor", consent=True, url="wss://no")
            assert (status, body["error"]) == (400, "InvalidRequest")
            status, body = await daemon.call(INDEXER + "resetCursor", consent=True)
            assert (status, body) == (200, {"success": True})
            await repaired(net, daemon, clock, "future_cursor", "cursor_reset")
            outcomes = daemon.rows(
                "SELECT outcome FROM audit_log WHERE action = ?", INDEXER + "resetCursor"
            )
            assert ("ok",) in outcomes


async def test_a_relay_set_back_that_has_come_past_our_cursor_again_is_a_gap(tmp_path: Path):
    async with Devnet(seed=8) as net:
        accounts = await accounts_with_records(net, 2)
        clock = ShiftedClock(time.time())
        async with running_daemon(tmp_path, settings(net), clock=clock) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            ((held,),) = daemon.rows("SELECT cursor FROM firehose")
            drop = net.faults.schedule(FaultKind.DROP_CONNECTION)
            net.relay.stream.rewind(2)
            tag(net, accounts[0])  # under a number that we hold already
            await net.faults.wait_fired(drop)
            await wait_until(
                lambda: net.relay.subscriptions.connections > 1, what="another connection"
            )
            while net.relay.stream.last_seq <= held:
                tag(net, accounts[1])
            await repaired(net, daemon, clock, "future_cursor")


async def set_back(net: Devnet, daemon: RunningDaemon, account: Account, events: int) -> int:
    """The relay forgets its last events, and says so; the cursor that it is behind then.

    What the account writes next comes under a number that we hold already.
    """
    await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
    ((held,),) = daemon.rows("SELECT cursor FROM firehose")
    net.relay.stream.rewind(events)
    net.faults.schedule(FaultKind.DROP_CONNECTION)
    tag(net, account)
    await wait_until(
        lambda: daemon.rows("SELECT reason, before_seq FROM gaps") == [("future_cursor", None)],
        what="the relay to say that it was set back",
    )
    return int(held)


async def come_past(net: Devnet, account: Account, held: int, folder: Path) -> None:
    """The relay's numbers come past the cursor while no daemon runs; the next one repairs that."""
    while net.relay.stream.last_seq <= held:
        tag(net, account)
    clock = ShiftedClock(time.time())
    async with running_daemon(folder, settings(net), clock=clock) as daemon:
        await repaired(net, daemon, clock, "future_cursor")


async def test_a_relay_set_back_that_comes_past_our_cursor_while_we_are_away_is_a_gap(
    tmp_path: Path,
):
    async with Devnet(seed=9) as net:
        accounts = await accounts_with_records(net, 2)
        async with running_daemon(tmp_path, settings(net)) as daemon:
            held = await set_back(net, daemon, accounts[0], 2)
        await come_past(net, accounts[1], held, tmp_path)


async def test_what_a_relay_set_back_goes_on_to_send_is_part_of_the_gap(tmp_path: Path):
    """Its repair does not begin, and end, between a connection and the answer FutureCursor."""
    async with Devnet(seed=10) as net:
        accounts = await accounts_with_records(net, 2)
        async with running_daemon(tmp_path, settings(net)) as daemon:
            held = await set_back(net, daemon, accounts[1], 3)
        net.relay.subscriptions.hesitation_s = 2.5
        before = net.relay.subscriptions.connections
        async with running_daemon(tmp_path, settings(net)):
            await wait_until(
                lambda: net.relay.subscriptions.connections > before + 1, what="another answer"
            )
        tag(net, accounts[0])  # under a number that we hold already
        await come_past(net, accounts[1], held, tmp_path)


async def test_a_relay_set_back_is_followed_at_once_where_the_settings_say_so(tmp_path: Path):
    async with Devnet(seed=6) as net:
        accounts = await accounts_with_records(net, 2)
        values = settings(net, on_future_cursor="live")
        clock = ShiftedClock(time.time())
        async with running_daemon(tmp_path, values, clock=clock) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            drop = net.faults.schedule(FaultKind.DROP_CONNECTION)
            net.relay.stream.rewind(2)
            tag(net, accounts[0])
            await net.faults.wait_fired(drop)
            await repaired(net, daemon, clock, "future_cursor")


async def test_a_relay_that_falls_silent_is_dialled_again_within_the_time_set(tmp_path: Path):
    async with Devnet(seed=7) as net:
        await accounts_with_records(net, 1)
        async with running_daemon(tmp_path, settings(net, idle_s=1.0)) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            await net.relay.subscriptions.wait_connections(2)
            assert await metric(daemon, "chive_firehose_reconnects_total", reason="idle") > 0
