"""The relay's stream: what a cursor means, and the lists beside it."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from devnet_clients import SUBSCRIBE, kinds, messages, parse, until_end
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from tests.devnet import Devnet

TAG = "pub.chive.eprint.userTag"


def seqs(frames) -> list[int]:
    return [parse(frame)[1]["seq"] for frame in frames]


async def with_tags(net: Devnet, count: int):
    account = await net.create_account()
    for number in range(count):
        net.create(account, TAG, {"tag": str(number)})
    return account


async def test_a_new_account_is_four_events_in_order(net) -> None:
    account = await net.create_account()
    frames = await messages(net.relay_url, 0, count=4)
    assert kinds(frames) == ["#identity", "#account", "#commit", "#sync"]
    identity, status, commit, sync = (parse(frame)[1] for frame in frames)
    assert identity["handle"] == account.handle
    assert status["active"] is True
    assert "status" not in status
    assert commit["ops"] == []
    assert commit["since"] is None
    assert "prevData" not in commit
    assert sync["rev"] == commit["rev"]


async def test_commit_bodies_have_exactly_the_recorded_keys(net) -> None:
    account = await with_tags(net, 1)
    frames = await messages(net.relay_url, 4, count=1)
    header, body = parse(frames[0])
    assert frames[0][:15] == bytes.fromhex("a2617467" + "23636f6d6d6974" + "626f7001")
    assert header == {"t": "#commit", "op": 1}
    names = "blobs blocks commit ops prevData rebase repo rev seq since time tooBig"
    assert " ".join(sorted(body)) == names
    assert body["repo"] == account.did
    assert sorted(body["ops"][0]) == ["action", "cid", "path"]


async def test_without_a_cursor_only_later_events_arrive(net) -> None:
    account = await with_tags(net, 3)
    async with connect(net.relay_url + SUBSCRIBE) as socket:
        await net.relay.subscriptions.wait_open()
        net.create(account, TAG, {"tag": "live"})
        frame = await asyncio.wait_for(socket.recv(), 5)
    assert parse(frame)[1]["seq"] == net.relay.stream.last_seq
    await net.relay.subscriptions.wait_open(0)


@pytest.mark.parametrize("cursor", [0, -1])
async def test_cursor_zero_or_less_replays_everything(net, cursor) -> None:
    await with_tags(net, 3)
    assert seqs(await messages(net.relay_url, cursor, count=7)) == [1, 2, 3, 4, 5, 6, 7]


async def test_a_cursor_is_the_last_seen_seq(net) -> None:
    await with_tags(net, 3)
    assert seqs(await messages(net.relay_url, 5, count=2)) == [6, 7]
    assert (await until_end(net.relay_url, 7)) == ([], "open")


async def test_a_future_cursor_is_an_error_and_close_1008(net) -> None:
    frames, end = await until_end(net.relay_url, 999)
    assert frames[0].hex() == (
        "a1626f7020a2656572726f726c467574757265437572736f72676d657373616765"
        "75437572736f7220696e20746865206675747572652e"
    )
    assert end == (1008, "FutureCursor")


async def test_a_cursor_that_is_no_number_is_refused(net) -> None:
    frames, end = await until_end(net.relay_url, "abc")
    assert parse(frames[0])[1]["error"] == "InvalidRequest"
    assert end == (1008, "InvalidRequest")


async def test_a_cursor_before_the_window_gets_info_and_then_the_window() -> None:
    async with Devnet(seed=2, window=5) as net:
        await with_tags(net, 20)
        frames = await messages(net.relay_url, 3, count=6)
        header, info = parse(frames[0])
        assert header["t"] == "#info"
        assert info["name"] == "OutdatedCursor"
        assert "seq" not in info
        assert seqs(frames[1:]) == [20, 21, 22, 23, 24]
        assert kinds(await messages(net.relay_url, 19, count=1)) == ["#commit"]


async def test_replayed_frames_are_the_live_ones_byte_for_byte(net) -> None:
    account = await net.create_account()
    async with connect(f"{net.relay_url}{SUBSCRIBE}?cursor=0") as socket:
        live = [await socket.recv() for _ in range(4)]
        for number in range(20):
            net.create(account, TAG, {"tag": str(number)})
            live.append(await asyncio.wait_for(socket.recv(), 5))
    assert await messages(net.relay_url, 0, count=24) == live


async def test_a_consumer_that_does_not_read_is_too_slow(net) -> None:
    account = await net.create_account()
    net.relay.subscriptions.backlog_max = 300
    async with connect(f"{net.relay_url}{SUBSCRIBE}?cursor=0", max_queue=1) as socket:
        await net.relay.subscriptions.wait_open()
        for number in range(3000):
            net.create(account, TAG, {"tag": "x" * 5000, "n": number})
        got = []
        with contextlib.suppress(ConnectionClosedError):
            while True:
                got.append(await asyncio.wait_for(socket.recv(), 5))
    assert parse(got[-1])[1]["error"] == "ConsumerTooSlow"
    assert (socket.close_code, socket.close_reason) == (1008, "ConsumerTooSlow")


async def test_deletion_erases_the_accounts_earlier_events(net) -> None:
    account = await with_tags(net, 3)
    await net.create_account(pds=1)
    net.set_account_status(account, "deleted")
    frames = await messages(net.relay_url, 0, count=5)
    assert seqs(frames) == [8, 9, 10, 11, 12]
    assert parse(frames[-1])[1]["status"] == "deleted"


async def test_stop_is_abrupt_and_start_keeps_port_and_log(net) -> None:
    await with_tags(net, 1)
    url = net.relay_url
    async with connect(f"{url}{SUBSCRIBE}?cursor=0", max_queue=None) as socket:
        await net.relay.subscriptions.wait_open()
        await net.relay.server.stop()
        async with asyncio.timeout(5):
            await socket.wait_closed()
    assert socket.close_code == 1006
    await net.relay.server.start()
    assert net.relay_url == url
    assert seqs(await messages(url, 0, count=5)) == [1, 2, 3, 4, 5]


async def test_a_relay_restored_from_a_backup_knows_no_newer_cursor(net) -> None:
    await with_tags(net, 5)
    net.relay.stream.rewind(4)
    assert (await until_end(net.relay_url, 9))[1] == (1008, "FutureCursor")


async def test_each_pds_has_a_stream_of_its_own(net) -> None:
    await net.create_account(pds=0)
    second = await net.create_account(pds=1)
    frames = await messages(net.pds[1].ws_url, 0, count=4)
    assert seqs(frames) == [1, 2, 3, 4]
    assert {parse(frame)[1].get("did", second.did) for frame in frames} == {second.did}


async def test_lists_of_hosts_repos_and_collections(net, client) -> None:
    tagger = await with_tags(net, 1)
    other = await net.create_account(pds=1)
    sync = "com.atproto.sync."
    status, hosts = await client.get(net.relay_http_url, sync + "listHosts", limit="1")
    assert (status, len(hosts["hosts"]), hosts["cursor"]) == (200, 1, "1")
    status, hosts = await client.get(net.relay_http_url, sync + "listHosts", cursor="1")
    assert [host["hostname"] for host in hosts["hosts"]] == [net.pds[1].url[7:]]
    assert "cursor" not in hosts
    status, repos = await client.get(net.relay_http_url, sync + "listRepos")
    assert {repo["did"] for repo in repos["repos"]} == {tagger.did, other.did}
    status, found = await client.get(
        net.relay_http_url, sync + "listReposByCollection", collection=TAG
    )
    assert found == {"repos": [{"did": tagger.did}]}
    net.relay.serves_collections = False
    status, error = await client.get(
        net.relay_http_url, sync + "listReposByCollection", collection=TAG
    )
    assert (status, error["error"]) == (501, "MethodNotImplemented")


async def test_getrepo_of_a_relay_redirects_to_the_host(net, client) -> None:
    account = await net.create_account(pds=1)
    answer, _ = await client.raw(net.relay_http_url, "com.atproto.sync.getRepo", did=account.did)
    assert answer.status == 302
    assert answer.headers["Location"].startswith(net.pds[1].url)


async def test_start_takes_under_a_tenth_of_a_second() -> None:
    started = time.perf_counter()
    async with Devnet(seed=3):
        assert time.perf_counter() - started < 0.1


async def test_the_same_seed_gives_the_same_bytes() -> None:
    from tests.devnet import Activity, ManualClock

    runs = []
    for _ in range(2):
        async with Devnet(seed=5, now=ManualClock()) as net:
            await Activity(net).steps(150)
            net.import_records(next(iter(net.accounts.values())), 50)
            frames = [entry.frame for entry in net.relay.stream.after(0, 10_000)]
            runs.append(frames)
    assert runs[0] == runs[1]
    assert len(runs[0]) > 100


async def test_another_seed_gives_other_accounts(net) -> None:
    account = await net.create_account()
    async with Devnet(seed=99) as other:
        assert (await other.create_account()).did != account.did
    assert len(account.did) == len("did:plc:") + 24
