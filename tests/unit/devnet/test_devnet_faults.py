"""Every kind of fault does what its name says, and is counted when it did."""

from __future__ import annotations

import asyncio
import random

import aiohttp
import pytest
from devnet_clients import SUBSCRIBE, kinds, messages, parse, until_end
from devnet_verifier import verdict
from websockets.asyncio.client import connect

from tests.devnet import FaultKind, FaultSchedule
from tests.devnet.car import read_car
from tests.devnet.cbor import cid_of, decode_at
from tests.devnet.clock import tid
from tests.devnet.faults import (
    ACCOUNT,
    COMMIT,
    CONNECTION,
    EVENT,
    HTTP_AFTER,
    HTTP_BEFORE,
    MESSAGE,
    SYNC,
)

TAG = "pub.chive.eprint.userTag"
REPO = "com.atproto.sync.getRepo"
NOW_REV = tid(4_000_000_000_000_000)
HANDSHAKE = (
    FaultKind.HANDSHAKE_STATUS,
    FaultKind.HANDSHAKE_HANG,
    FaultKind.CONNECT_THEN_FAIL,
)
ANSWERS = (
    FaultKind.PLC_STALE,
    FaultKind.PLC_NOT_FOUND,
    FaultKind.CURSOR_LOOP,
    FaultKind.BOGUS_DIDS,
)


async def busy_account(net, tags: int = 6):
    account = await net.create_account()
    for number in range(tags):
        net.create(account, TAG, {"tag": f"tag number {number}"}, rkey=f"t{number}")
    return account


# The schedule


def test_every_kind_belongs_to_one_place_where_it_happens() -> None:
    groups = (*HANDSHAKE, *CONNECTION, *MESSAGE, *EVENT, *COMMIT, *ACCOUNT)
    groups = (*groups, *HTTP_BEFORE, *HTTP_AFTER, *ANSWERS)
    assert sorted(groups) == sorted(FaultKind)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="drop_conection"):
        FaultSchedule(random.Random(1)).schedule("drop_conection")


def test_conditions_skips_and_times_decide_when_a_fault_fires() -> None:
    faults = FaultSchedule(random.Random(1))
    fault = faults.schedule("http_status", times=2, skip=1, service="pds", did="did:a", status=502)
    kinds_asked = (FaultKind.HTTP_STATUS,)
    assert faults.take(kinds_asked, service="plc", did="did:a") is None
    assert faults.take(kinds_asked, service="pds", did="did:b") is None
    assert faults.take((FaultKind.HTTP_HANG,), service="pds", did="did:a") is None
    fired = [faults.take(kinds_asked, service="pds", did="did:a") for _ in range(5)]
    assert fired == [None, fault, fault, None, None]
    assert fault.number("status", 500) == 502
    assert faults.fired == {FaultKind.HTTP_STATUS: 2}
    assert faults.unfired() == []


def test_a_fault_that_never_happened_is_reported() -> None:
    faults = FaultSchedule(random.Random(1))
    fault = faults.schedule("http_status", did="did:nobody")
    assert faults.unfired() == [fault]
    fault.cancel()
    assert faults.take((FaultKind.HTTP_STATUS,), did="did:nobody") is None


def test_a_probable_fault_fires_about_as_often_as_it_says() -> None:
    faults = FaultSchedule(random.Random(1))
    faults.schedule("http_status", times=None, probability=0.3)
    fired = sum(faults.take((FaultKind.HTTP_STATUS,)) is not None for _ in range(1000))
    assert 230 < fired < 370


async def test_waiting_for_a_fault_returns_when_it_has_fired(net, client) -> None:
    fault = net.faults.schedule("http_status", service="plc")
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(net.faults.wait_fired(fault))
        await client.get(net.plc_url, "/_health")
        await waiting
    late = net.faults.schedule("http_status", service="plc")
    with pytest.raises(TimeoutError):
        await net.faults.wait_fired(late, timeout_s=0.01)


# The connection


@pytest.mark.parametrize(
    ("kind", "params", "frames", "end"),
    [
        ("handshake_status", {"status": 429}, 0, 429),
        ("handshake_hang", {}, 0, "open"),
        ("connect_then_fail", {}, 0, "reset"),
        ("drop_connection", {"at": 3}, 3, "reset"),
        ("close_without_frame", {"at": 3}, 3, "reset"),
        ("close", {"at": 2, "code": 1000}, 2, (1000, "")),
        ("close", {"at": 2, "code": 1001, "reason": "bye"}, 2, (1001, "bye")),
        ("close", {"at": 2, "code": 1011}, 2, (1011, "")),
        ("hang", {"at": 2}, 2, "open"),
        ("dead_peer", {"at": 2}, 2, "open"),
        ("error_frame", {"at": 2}, 3, (1008, "ConsumerTooSlow")),
    ],
)
async def test_connections_end_as_scheduled(net, kind, params, frames, end) -> None:
    await busy_account(net)
    fault = net.faults.schedule(kind, **params)
    got, how = await until_end(net.relay_url, 0, patience_s=0.2)
    assert (len(got), how) == (frames, end)
    assert fault.fired == 1
    assert len(await messages(net.relay_url, 0, count=10)) == 10


async def test_an_idle_connection_can_be_dropped(net) -> None:
    account = await net.create_account()
    async with connect(net.relay_url + SUBSCRIBE) as socket:
        await net.relay.subscriptions.wait_open()
        net.faults.schedule("close_without_frame", at=1)
        net.create(account, TAG, {"tag": "x"})
        async with asyncio.timeout(5):
            await socket.wait_closed()
    assert net.faults.unfired() == []


async def test_a_refused_handshake_can_say_when_to_retry(net, client) -> None:
    net.faults.schedule("handshake_status", status=503, retry_after_s=7)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(net.relay_url + SUBSCRIBE)
    assert caught.value.status == 503
    assert caught.value.headers["Retry-After"] == "7"


async def test_a_hanging_stream_still_answers_pings_and_a_dead_one_does_not(net) -> None:
    await busy_account(net)
    for kind, answers in (("hang", True), ("dead_peer", False)):
        net.faults.schedule(kind, at=1)
        async with connect(
            f"{net.relay_url}{SUBSCRIBE}?cursor=0", ping_interval=None, close_timeout=0.1
        ) as socket:
            await socket.recv()
            pong = await socket.ping()
            done, _ = await asyncio.wait({asyncio.ensure_future(pong)}, timeout=0.2)
            assert bool(done) is answers
            pong.cancel()


# One message


@pytest.mark.parametrize("kind", [kind for kind in MESSAGE if kind != "oversized_frame"])
async def test_message_faults_touch_one_frame_of_one_connection(net, kind) -> None:
    await busy_account(net)
    true = await messages(net.relay_url, 0, count=10)
    params = {"data": b"junk"} if kind == "replace_frame" else {}
    if kind == "slow_frame":
        params = {"interval_s": 0}
    fault = net.faults.schedule(kind, seq=6, **params)
    got, _ = await until_end(net.relay_url, 0, patience_s=0.2)
    at = 5
    expected = {
        "duplicate_frame": [*true[: at + 1], *true[at:]],
        "reorder_frames": [*true[:at], true[6], true[5], *true[7:]],
        "truncate_frame": [*true[:at], true[5][: len(true[5]) // 2], *true[6:]],
        "trailing_bytes": [*true[:at], true[5] + b"\xa0", *true[6:]],
        "replace_frame": [*true[:at], b"junk", *true[6:]],
        "slow_frame": true,
    }.get(kind)
    if expected is not None:
        assert got == expected
    elif kind == "corrupt_frame":
        changed = [pair for pair in zip(got[at], true[at], strict=True) if pair[0] != pair[1]]
        assert len(changed) == 1
        assert [*got[:at], *got[6:]] == [*true[:at], *true[6:]]
    else:
        assert [*got[:at], *got[at + 1 :]] == true
        if kind == "text_frame":
            assert isinstance(got[at], str)
        elif kind == "unknown_op":
            assert parse(got[at])[0]["op"] == 7
        else:
            assert parse(got[at])[0]["t"] == {"unknown_type": "#labels"}.get(kind, "#info")
    assert fault.fired == 1
    assert await messages(net.relay_url, 0, count=10) == true


async def test_an_oversized_frame_has_exactly_the_size_that_is_one_too_many(net) -> None:
    await busy_account(net, 1)
    net.faults.schedule("oversized_frame", seq=2)
    got, how = await until_end(net.relay_url, 0, max_size=5_000_000, patience_s=3)
    assert (len(got), how) == (1, 1009)
    net.faults.schedule("oversized_frame", seq=2)
    got = await messages(net.relay_url, 0, count=3)
    assert [len(got[1]), kinds([got[1]])] == [5_000_001, ["#labels"]]


# The event itself


async def test_true_commits_hold(net) -> None:
    account = await busy_account(net)
    net.update(account, TAG, "t1", {"tag": "changed"})
    net.delete(account, TAG, "t2")
    frames = await messages(net.relay_url, 0, count=12)
    commits = [frame for frame in frames if kinds([frame]) == ["#commit"]]
    assert len(commits) == 9
    assert {verdict(frame, account.key, account.did, NOW_REV) for frame in commits} == {"true"}


@pytest.mark.parametrize(
    ("kind", "params", "reason"),
    [
        ("bad_signature", {}, "signature"),
        ("high_s", {}, "high s"),
        ("wrong_key", {}, "signature"),
        ("wrong_prev_data", {}, "inversion"),
        ("missing_prev_data", {}, "no prevData"),
        ("omitted_op", {"action": None}, "inversion"),
        ("phantom_op", {}, "inversion"),
        ("missing_prev", {}, "no prev"),
        ("future_rev", {"seconds": 10**9}, "true"),
        ("wrong_rev", {}, "rev"),
        ("wrong_root", {}, "root"),
        ("wrong_block_hash", {}, "hash"),
        ("missing_block", {"block": "record"}, "absent block"),
        ("missing_block", {"block": "node"}, "absent block"),
        ("missing_block", {"block": "commit"}, "root"),
        ("garbage_block", {}, "true"),
        ("too_big", {}, "too big"),
        ("other_repo", {}, "did"),
        ("wrong_since", {}, "true"),
    ],
)
async def test_a_lie_breaks_the_rule_it_is_named_for_and_the_repo_stays_true(
    net, kind, params, reason
) -> None:
    account = await busy_account(net)
    fault = net.faults.schedule(kind, did=account.did, type="#commit", **params)
    before = net.repo(account).rev
    commit = net.update(account, TAG, "t3", {"tag": "changed"}).commit
    assert fault.fired == 1
    told = (await messages(net.relay_url, net.relay.stream.last_seq - 1, count=1))[0]
    true = net.pds[0].stream.after(net.pds[0].stream.last_seq - 1)[0].frame
    assert verdict(true, account.key, account.did, NOW_REV) == "true"
    assert verdict(told, account.key, account.did, NOW_REV) == reason
    assert net.repo(account).rev == commit.rev > before
    body = decode_at(told, decode_at(told, 0)[1])[0]
    if kind == "future_rev":
        assert verdict(told, account.key, account.did, tid(1_800_000_000_000_000)) == "future"
    if kind == "wrong_since":
        assert body["since"] != before
    following = net.create(account, TAG, {"tag": "after"}).commit
    assert following.since == commit.rev


async def test_an_omitted_delete_leaves_the_other_ops(net) -> None:
    from tests.devnet import Change

    account = await busy_account(net)
    net.faults.schedule("omitted_op", did=account.did)
    net.apply_writes(
        account, [Change("delete", TAG, "t1"), Change("create", TAG, "t9", {"tag": "nine"})]
    )
    frame = (await messages(net.relay_url, net.relay.stream.last_seq - 1, count=1))[0]
    assert [op["action"] for op in parse(frame)[1]["ops"]] == ["create"]
    assert verdict(frame, account.key, account.did, NOW_REV) == "inversion"


@pytest.mark.parametrize("kind", sorted(SYNC))
async def test_a_sync_lies_only_on_demand(net, kind) -> None:
    account = await busy_account(net)
    net.faults.schedule(kind)
    net.emit_sync(account)
    net.faults.schedule(kind, type="#sync", did=account.did)
    net.emit_sync(account)
    net.emit_sync(account)
    pairs = [
        decode_at(entry.frame, decode_at(entry.frame, 0)[1])[0]
        for entry in net.relay.stream.after(net.relay.stream.last_seq - 3)
    ]
    for body in pairs:
        del body["seq"], body["time"]
    assert pairs[0] == pairs[2] != pairs[1]
    assert net.faults.fired == {FaultKind(kind): 1}


async def test_event_faults_are_kept_in_the_log(net) -> None:
    account = await net.create_account()
    net.faults.schedule("swallow_frame", type="#commit")
    net.create(account, TAG, {"tag": "swallowed"})
    assert net.relay.stream.last_seq == 4
    net.faults.schedule("replayed_event", type="#commit")
    net.create(account, TAG, {"tag": "twice"})
    first, second = (parse(frame)[1] for frame in await messages(net.relay_url, 4, count=2))
    assert first.pop("seq") + 1 == second.pop("seq")
    assert first == second
    net.faults.schedule("poison_frame", type="#commit", data=b"\xff\xff")
    net.create(account, TAG, {"tag": "poison"})
    for _ in range(2):
        assert await messages(net.relay_url, 6, count=1) == [b"\xff\xff"]
    net.faults.schedule("stale_account", type="#commit")
    net.create(account, TAG, {"tag": "stale"})
    stale = parse((await messages(net.relay_url, 8, count=1))[0])[1]
    assert (stale["active"], stale["time"][:4]) == (False, "1970")
    assert net.is_visible(account)
    assert net.faults.unfired() == []


@pytest.mark.parametrize(
    "pattern", ["create+update", "create+delete", "delete+create", "update+update", "update+delete"]
)
async def test_an_account_can_write_the_same_path_twice(net, pattern) -> None:
    account = await net.create_account()
    net.faults.schedule("same_path_twice", did=account.did, pattern=pattern)
    net.create(account, TAG, {"tag": "x"})
    last = parse((await messages(net.relay_url, net.relay.stream.last_seq - 1, count=1))[0])[1]
    assert [op["action"] for op in last["ops"]] == pattern.split("+")
    assert len({op["path"] for op in last["ops"]}) == 1
    assert net.faults.unfired() == []


async def test_an_account_can_make_empty_commits_and_odd_syncs(net) -> None:
    account = await net.create_account()
    net.faults.schedule("empty_commit")
    net.create(account, TAG, {"tag": "x"})
    frame = (await messages(net.relay_url, 5, count=1))[0]
    assert parse(frame)[1]["ops"] == []
    assert len(read_car(decode_at(frame, decode_at(frame, 0)[1])[0]["blocks"])[1]) == 1
    net.faults.schedule("sync_rev_differs")
    net.create(account, TAG, {"tag": "y"})
    header, body = parse((await messages(net.relay_url, 7, count=1))[0])
    assert header["t"] == "#sync"
    assert body["rev"] > net.repo(account).rev


# HTTP


async def test_http_faults_before_the_handler_replace_the_answer(net, client) -> None:
    account = await busy_account(net)
    url, did = net.pds[0].url, account.did
    at_repo = {"service": "pds", "endpoint": REPO, "did": did}
    net.faults.schedule("http_status", status=503, error="Overloaded", **at_repo)
    assert await client.get(url, REPO, did=did) == (
        503,
        {"error": "Overloaded", "message": "Overloaded"},
    )
    net.faults.schedule("http_429", retry_after_s=9, reset_at=1_795_477_801, **at_repo)
    answer, body = await client.raw(url, REPO, did=did)
    assert answer.status == 429
    assert answer.headers["Retry-After"] == "9"
    assert answer.headers["RateLimit-Reset"] == "1795477801"
    assert b"RateLimitExceeded" in body
    net.faults.schedule("http_429", headers=False, **at_repo)
    answer, body = await client.raw(url, REPO, did=did)
    assert (answer.status, answer.content_type) == (429, "text/html")
    assert not [
        name for name in answer.headers if "limit" in name.lower() or "retry" in name.lower()
    ]
    net.faults.schedule("http_html", **at_repo)
    answer, body = await client.raw(url, REPO, did=did)
    assert (answer.status, answer.content_type) == (200, "text/html")
    net.faults.schedule("http_body", body=b"stale", **at_repo)
    assert (await client.raw(url, REPO, did=did))[1] == b"stale"
    net.faults.schedule("http_redirect", location="http://169.254.169.254/", **at_repo)
    answer, _ = await client.raw(url, REPO, did=did)
    assert (answer.status, answer.headers["Location"]) == (302, "http://169.254.169.254/")
    net.faults.schedule("http_delay", seconds=0.01, **at_repo)
    assert (await client.raw(url, REPO, did=did))[1] == net.car(account)
    assert net.faults.unfired() == []


@pytest.mark.parametrize(
    ("kind", "params", "error"),
    [
        ("http_hang", {}, TimeoutError),
        ("http_reset", {"at": 0}, aiohttp.ClientError),
        ("http_reset", {"at": 100}, aiohttp.ClientError),
        ("http_stall", {}, TimeoutError),
        ("http_stall", {"at": 0}, TimeoutError),
        ("http_length_lie", {"delta": 10}, aiohttp.ClientError),
        ("http_length_lie", {"delta": -10}, aiohttp.ClientError),
    ],
)
async def test_an_answer_can_fail_at_any_point(net, kind, params, error) -> None:
    account = await busy_account(net)
    net.faults.schedule(kind, service="pds", endpoint=REPO, **params)
    url = f"{net.pds[0].url}/xrpc/{REPO}?did={account.did}"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(0.2)) as session:
        with pytest.raises(error):
            async with session.get(url) as answer:
                await answer.read()
        assert net.faults.unfired() == []
        async with session.get(url) as answer:
            assert await answer.read() == net.car(account)


async def test_bodies_can_be_cut_slowed_or_corrupted(net, client) -> None:
    account = await busy_account(net)
    url, did, true = net.pds[0].url, account.did, net.car(account)

    async def body(kind: str, **params) -> bytes:
        net.faults.schedule(kind, service="pds", endpoint=REPO, **params)
        return (await client.raw(url, REPO, did=did))[1]

    assert await body("http_truncate") == true[: len(true) // 2]
    assert await body("http_truncate", at=70) == true[:70]
    assert await body("http_slow", chunk=400, interval_s=0.001) == true
    _, blocks = read_car(await body("car_wrong_hash"))
    assert sum(cid_of(block) != cid for cid, block in blocks) == 1
    _, blocks = read_car(await body("car_missing_block"))
    assert len(blocks) == len(net.repo(account).blocks) - 1
    assert net.faults.unfired() == []


async def test_a_gzip_bomb_is_small_on_the_wire_and_large_inside(net) -> None:
    net.faults.schedule("gzip_bomb", service="plc", size=20_000_000)
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.get(f"{net.plc_url}/did:plc:x") as answer,
    ):
        assert answer.headers["Content-Encoding"] == "gzip"
        assert len(await answer.read()) < 50_000


async def test_an_endless_car_is_of_valid_blocks_and_ends_with_the_client(net) -> None:
    net.faults.schedule("endless_body", service="pds", endpoint=REPO)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{net.pds[0].url}/xrpc/{REPO}?did=did:plc:x") as answer,
    ):
        data = await answer.content.readexactly(300_000)
    blocks = read_car(data[: 59 + 60 * (4099 + 36 + 2)])[1]
    assert all(cid_of(block) == cid for cid, block in blocks)


async def test_a_plc_outage_and_a_stale_document(net, client) -> None:
    account = await net.create_account()
    old = net.document(account.did)
    net.rotate_key(account)
    outage = net.faults.schedule("http_status", times=None, service="plc", status=502)
    for _ in range(3):
        assert (await client.get(net.plc_url, f"/{account.did}"))[0] == 502
    outage.cancel()
    net.faults.schedule("plc_stale", did=account.did)
    assert await client.get(net.plc_url, f"/{account.did}") == (200, old)
    net.faults.schedule("plc_not_found", did=account.did)
    assert (await client.get(net.plc_url, f"/{account.did}"))[0] == 404
    assert (await client.get(net.plc_url, f"/{account.did}"))[1] == net.document(account.did)
    assert outage.fired == 3


async def test_lists_can_loop_or_swell(net, client) -> None:
    for _ in range(4):
        await net.create_account()
    url, method = net.pds[0].url, "com.atproto.sync.listRepos"
    net.faults.schedule("cursor_loop", times=2)
    _, first = await client.get(url, method, limit="2")
    _, second = await client.get(url, method, limit="2", cursor=first["cursor"])
    assert second == first
    net.faults.schedule("bogus_dids", count=50)
    _, swollen = await client.get(url, method, limit="2")
    assert len(swollen["repos"]) == 52
    assert len({repo["did"] for repo in swollen["repos"]}) == 52


async def test_faults_of_one_host_leave_the_other_alone(net, client) -> None:
    first = await net.create_account(pds=0)
    second = await net.create_account(pds=1)
    net.faults.schedule("http_status", times=None, service="pds", host=0)
    method = "com.atproto.sync.getRepoStatus"
    assert (await client.get(net.pds[0].url, method, did=first.did))[0] == 500
    assert (await client.get(net.pds[1].url, method, did=second.did))[0] == 200
