"""What the devnet's PDSes and PLC directory answer, against what the real ones were seen to."""

from __future__ import annotations

import asyncio
import json

import pytest
from devnet_clients import messages, parse

from tests.devnet import Change, Devnet, realistic_record
from tests.devnet.car import read_car
from tests.devnet.cbor import RAW, cid_from_text, cid_of, cid_text, decode, encode, from_json
from tests.devnet.mst import key_height

TAG = "pub.chive.eprint.userTag"
SYNC = "com.atproto.sync."
REPO_METHODS = ["getRepo", "getLatestCommit", "listBlobs"]


async def some_account(net: Devnet, tags: int = 5):
    account = await net.create_account()
    writes = [
        Change("create", TAG, f"t{number:03d}", {"tag": str(number)}) for number in range(tags)
    ]
    net.apply_writes(account, writes)
    return account


async def test_getrepo_is_a_chunked_car_of_the_whole_repo(net, client) -> None:
    account = await some_account(net)
    answer, body = await client.raw(net.pds[0].url, SYNC + "getRepo", did=account.did)
    assert answer.content_type == "application/vnd.ipld.car"
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert answer.headers["Content-Encoding"] == "gzip"
    header, blocks = read_car(body)
    repo = net.repo(account)
    assert decode(header) == decode(encode(decode(header)))
    assert [link.cid for link in decode(header)["roots"]] == [repo.commit_cid]
    assert {cid for cid, _ in blocks} == set(repo.blocks)
    assert all(cid_of(block) == cid for cid, block in blocks)
    assert body == net.car(account)


async def test_getrepo_since_the_current_rev_has_no_blocks(net, client) -> None:
    account = await some_account(net)
    rev = net.repo(account).rev
    _, body = await client.raw(net.pds[0].url, SYNC + "getRepo", did=account.did, since=rev)
    assert len(body) == 59
    _, body = await client.raw(
        net.pds[0].url, SYNC + "getRepo", did=account.did, since="2222222222222"
    )
    assert body == net.car(account)


async def test_commit_block_is_usually_not_first() -> None:
    async with Devnet(seed=4) as net:
        first = []
        for _ in range(20):
            account = await some_account(net)
            blocks = read_car(net.car(account))[1]
            first.append(blocks[0][0] == net.repo(account).commit_cid)
    assert 0 < first.count(True) < 12


async def test_getblocks_has_no_roots_and_refuses_missing_cids(net, client) -> None:
    account = await some_account(net)
    commit = cid_text(net.repo(account).commit_cid)
    url = net.pds[0].url
    _, body = await client.raw(url, SYNC + "getBlocks", did=account.did, cids=commit)
    header, blocks = read_car(body)
    assert decode(header) == {"roots": [], "version": 1}
    assert [cid_text(cid) for cid, _ in blocks] == [commit]
    absent = cid_text(cid_of(b"absent"))
    status, error = await client.get(url, SYNC + "getBlocks", did=account.did, cids=absent)
    expected = {"error": "InvalidRequest", "message": f"Could not find cids: {absent}"}
    assert (status, error) == (400, expected)


@pytest.mark.parametrize("rkey", ["t002", "nope"])
async def test_getrecord_proves_presence_and_absence(net, client, rkey) -> None:
    account = await some_account(net, 200)
    answer, body = await client.raw(
        net.pds[0].url, SYNC + "getRecord", did=account.did, collection=TAG, rkey=rkey
    )
    assert answer.status == 200
    header, blocks = read_car(body)
    root = decode(header)["roots"][0].cid
    assert blocks[0][0] == root
    stored = dict(blocks)
    found = walk_to(stored, decode(stored[root])["data"].cid, f"{TAG}/{rkey}".encode())
    assert (found is not None) == (rkey == "t002")
    assert found is None or found in stored


def walk_to(stored: dict[bytes, bytes], cid: bytes, key: bytes) -> bytes | None:
    node, name = decode(stored[cid]), b""
    below = node["l"]
    for entry in node["e"]:
        name = name[: entry["p"]] + entry["k"]
        if name == key:
            return entry["v"].cid
        if name > key:
            break
        below = entry["t"]
    return None if below is None else walk_to(stored, below.cid, key)


async def test_latest_commit_status_and_listing_agree(net, client) -> None:
    account = await some_account(net)
    repo, url = net.repo(account), net.pds[0].url
    head = cid_text(repo.commit_cid)
    latest = await client.get(url, SYNC + "getLatestCommit", did=account.did)
    assert latest == (200, {"cid": head, "rev": repo.rev})
    status = await client.get(url, SYNC + "getRepoStatus", did=account.did)
    assert status == (200, {"did": account.did, "active": True, "rev": repo.rev})
    _, listing = await client.get(url, SYNC + "listRepos")
    expected = {"did": account.did, "head": head, "rev": repo.rev, "active": True}
    assert listing["repos"] == [expected]


@pytest.mark.parametrize(
    ("status", "error", "text"),
    [
        ("takendown", "RepoTakendown", "Repo has been takendown: {}"),
        ("deactivated", "RepoDeactivated", "Repo has been deactivated: {}"),
        ("suspended", "RepoSuspended", "Repo has been suspended: {}"),
        ("deleted", "RepoNotFound", "Could not find repo for DID: {}"),
    ],
)
async def test_inactive_repos_answer_400_with_their_reason(
    net, client, status, error, text
) -> None:
    account = await some_account(net)
    net.set_account_status(account, status)
    url, did = net.pds[0].url, account.did
    for method in REPO_METHODS:
        assert await client.get(url, SYNC + method, did=did) == (
            400,
            {"error": error, "message": text.format(did)},
        )
    answer = await client.get(url, SYNC + "getRepoStatus", did=did)
    if status == "deleted":
        assert answer[0] == 400
    else:
        assert answer == (200, {"did": did, "active": False, "status": status})
    records = await client.get(url, "com.atproto.repo.listRecords", repo=did, collection=TAG)
    assert records[1]["message"] == f"Could not find repo: {did}"
    _, listing = await client.get(url, SYNC + "listRepos")
    shown = [(repo["active"], repo["status"]) for repo in listing["repos"]]
    assert shown == ([] if status == "deleted" else [(False, status)])


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        (SYNC + "listReposByCollection", "InvalidRequest", "No service configured for "),
        (SYNC + "getHostStatus", "InvalidRequest", "No service configured for "),
        ("pub.chive.nothing.here", "InvalidRequest", "No service configured for "),
        (SYNC + "subscribeRepos", "InvalidRequest", "No service configured for "),
        (
            SYNC + "getRepo",
            "InvalidRequest",
            "Invalid com.atproto.sync.getRepo params: Missing requ",
        ),
        (
            SYNC + "getRepo?did=not-a-did",
            "InvalidRequest",
            "Invalid com.atproto.sync.getRepo params: I",
        ),
        (
            SYNC + "listRepos?limit=1001",
            "InvalidRequest",
            "Invalid com.atproto.sync.listRepos params",
        ),
        (SYNC + "listRepos?cursor=zzz", "InvalidRequest", "Malformed cursor"),
        ("com.atproto.identity.resolveHandle?handle=x.test", "HandleNotFound", "Unable to resolve"),
    ],
)
async def test_refusals_are_those_of_the_real_pds(net, client, path, error, message) -> None:
    status, body = await client.get(net.pds[0].url, f"/xrpc/{path}")
    assert (status, body["error"]) == (400, error)
    assert body["message"].startswith(message)


async def test_listrepos_pages_end_with_an_empty_page_without_cursor(net, client) -> None:
    accounts = [await net.create_account() for _ in range(3)]
    url, sizes, cursor = net.pds[0].url, [], {}
    seen = []
    while True:
        _, page = await client.get(url, SYNC + "listRepos", limit="2", **cursor)
        sizes.append(len(page["repos"]))
        seen += [repo["did"] for repo in page["repos"]]
        if "cursor" not in page:
            break
        cursor = {"cursor": page["cursor"]}
    assert sizes == [2, 1, 0]
    assert sorted(seen) == sorted(account.did for account in accounts)


async def test_accounts_without_repos_are_listed_and_described_like_others(net, client) -> None:
    account = await some_account(net)
    extras = net.pds[0].add_extras(3, ("app.bsky.feed.post",), at=1_790_000_000.0)
    assert [extra.rev for extra in extras] == sorted({extra.rev for extra in extras})
    url = net.pds[0].url
    _, page = await client.get(url, "com.atproto.sync.listRepos")
    assert {each["did"]: each["rev"] for each in page["repos"]} == {
        account.did: net.repo(account).host_rev, **{extra.did: extra.rev for extra in extras}
    }  # fmt: skip
    assert all(each["active"] for each in page["repos"])
    _, told = await client.get(url, "com.atproto.repo.describeRepo", repo=extras[0].did)
    assert told["collections"] == ["app.bsky.feed.post"]
    status, error = await client.get(url, "com.atproto.sync.getRepo", did=extras[0].did)
    assert (status, error["error"]) == (400, "RepoNotFound")


async def test_listrecords_pages_in_both_directions(net, client) -> None:
    account = await some_account(net, 5)
    url = net.pds[0].url
    base = {"repo": account.did, "collection": TAG, "limit": "2"}
    method = "com.atproto.repo.listRecords"
    for extra, expected in (({}, "43210"), ({"reverse": "true"}, "01234")):
        tags, cursor = "", {}
        while True:
            _, page = await client.get(url, method, **base, **extra, **cursor)
            tags += "".join(record["value"]["tag"] for record in page["records"])
            if "cursor" not in page:
                break
            cursor = {"cursor": page["cursor"]}
        assert tags == expected


async def test_a_taken_down_record_is_hidden_from_reads_but_stays_in_the_repo(net, client) -> None:
    account = await some_account(net)
    events = net.relay.stream.last_seq
    net.take_down_record(account, TAG, "t001")
    url = net.pds[0].url
    status, error = await client.get(
        url, "com.atproto.repo.getRecord", repo=account.did, collection=TAG, rkey="t001"
    )
    assert (status, error["error"]) == (400, "RecordNotFound")
    _, page = await client.get(
        url, "com.atproto.repo.listRecords", repo=account.did, collection=TAG
    )
    assert len(page["records"]) == 4
    assert cid_of(encode({"$type": TAG, "tag": "1"})) in dict(read_car(net.car(account))[1])
    assert net.relay.stream.last_seq == events


async def test_getrecord_gives_the_value_and_its_cid(net, client) -> None:
    account = await net.create_account()
    value = realistic_record(net.rng, "pub.chive.eprint.submission", did=account.did)
    written = net.create(account, "pub.chive.eprint.submission", value)
    status, answer = await client.get(
        net.pds[0].url,
        "com.atproto.repo.getRecord",
        repo=account.handle,
        collection=written.collection,
        rkey=written.rkey,
    )
    assert status == 200
    assert answer == {"uri": written.uri, "cid": written.cid, "value": value}
    assert cid_text(cid_of(encode(from_json(answer["value"])))) == written.cid


async def test_describerepo_names_collections_and_handle(net, client) -> None:
    account = await some_account(net)
    _, answer = await client.get(net.pds[0].url, "com.atproto.repo.describeRepo", repo=account.did)
    assert answer["collections"] == [TAG]
    assert answer["handle"] == account.handle
    assert answer["handleIsCorrect"] is True
    assert answer["didDoc"] == net.document(account.did)


async def test_blobs_are_served_and_listed(net, client) -> None:
    account = await net.create_account()
    reference = net.add_blob(account, b"%PDF-1.7 test", "application/pdf")
    cid = reference["ref"]["$link"]
    assert cid_from_text(cid) == cid_of(b"%PDF-1.7 test", RAW)
    answer, body = await client.raw(net.pds[0].url, SYNC + "getBlob", did=account.did, cid=cid)
    assert (answer.content_type, body) == ("application/pdf", b"%PDF-1.7 test")
    _, page = await client.get(net.pds[0].url, SYNC + "listBlobs", did=account.did)
    assert page == {"cursor": cid, "cids": [cid]}


async def test_handles_resolve_at_every_pds_and_by_host_header(net, client) -> None:
    account = await net.create_account(pds=1, handle="alice.example.test")
    for pds in net.pds:
        answer = await client.get(
            pds.url, "com.atproto.identity.resolveHandle", handle="alice.example.test"
        )
        assert answer == (200, {"did": account.did})
    reader, writer = await asyncio.open_connection("127.0.0.1", net.pds[0].server.port)
    writer.write(b"GET /.well-known/atproto-did HTTP/1.0\r\nHost: alice.example.test\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    assert text.endswith(account.did)


async def test_plc_documents_are_multikey_or_legacy(net, client) -> None:
    for curve in ("k256", "p256"):
        account = await net.create_account(pds=1, key=curve)
        answer, body = await client.raw(net.plc_url, f"/{account.did}")
        assert answer.headers["Content-Type"].startswith("application/did+ld+json")
        document = json.loads(body)
        method = document["verificationMethod"][0]
        assert (document["id"], method["type"]) == (account.did, "Multikey")
        assert document["alsoKnownAs"] == [f"at://{account.handle}"]
        assert document["service"][0]["serviceEndpoint"] == net.pds[1].url
    net.plc.is_legacy = True
    _, document = await client.get(net.plc_url, f"/{account.did}")
    assert document["verificationMethod"][0]["type"] == "EcdsaSecp256r1VerificationKey2019"
    assert document["verificationMethod"][0]["id"] == "#atproto"


async def test_plc_logs_and_export_hold_every_operation(net, client) -> None:
    account = await net.create_account()
    await net.create_account()
    net.rotate_key(account)
    _, audit = await client.get(net.plc_url, f"/{account.did}/log/audit")
    assert [entry["did"] for entry in audit] == [account.did] * 2
    assert audit[1]["operation"]["prev"] == audit[0]["cid"]
    _, data = await client.get(net.plc_url, f"/{account.did}/data")
    assert data["verificationMethods"] == audit[1]["operation"]["verificationMethods"]
    _, body = await client.raw(net.plc_url, "/export", after="0", count="2")
    lines = [json.loads(line) for line in body.decode().splitlines()]
    assert [line["seq"] for line in lines] == [1, 2]
    _, body = await client.raw(net.plc_url, "/export", after="2")
    assert [json.loads(line)["seq"] for line in body.decode().splitlines()] == [3]
    _, body = await client.raw(net.plc_url, "/export", after="2020-01-01T00:00:00.000Z")
    lines = [json.loads(line) for line in body.decode().splitlines()]
    assert len(lines) == 3
    assert "seq" not in lines[0]


async def test_plc_knows_unknown_and_tombstoned_dids_apart(net, client) -> None:
    account = await net.create_account()
    net.plc.tombstone(account.did)
    status, answer = await client.get(net.plc_url, f"/{account.did}")
    assert (status, answer) == (404, {"message": f"DID not available: {account.did}"})
    unknown = "did:plc:" + "a" * 24
    status, answer = await client.get(net.plc_url, f"/{unknown}")
    assert (status, answer) == (404, {"message": f"DID not registered: {unknown}"})


async def test_did_web_accounts_have_their_own_host(net, client) -> None:
    account = await net.create_account(method="web")
    port = account.did.removeprefix("did:web:localhost%3A")
    _, document = await client.get(f"http://localhost:{port}", "/.well-known/did.json")
    assert document == net.document(account.did)
    assert document["id"] == account.did
    net.create(account, TAG, {"tag": "web"})
    net.rotate_key(account)
    _, changed = await client.get(f"http://localhost:{port}", "/.well-known/did.json")
    assert changed["verificationMethod"] != document["verificationMethod"]


async def test_servers_count_what_they_were_asked(net, client) -> None:
    account = await some_account(net)
    url = net.pds[0].url
    async with asyncio.TaskGroup() as tasks:
        for _ in range(5):
            tasks.create_task(client.raw(url, SYNC + "getRepo", did=account.did))
    server = net.pds[0].server
    assert server.requests[SYNC + "getRepo"] == 5
    assert 1 <= server.busy_max <= 5
    assert server.busy == 0
    assert [seen.query["did"] for seen in server.seen] == [account.did] * 5


async def test_an_import_is_one_sync_whose_rev_is_not_the_commits(net, client) -> None:

    account = await net.create_account()
    net.import_records(account, 300, records=[(f"{TAG}/mine", {"$type": TAG, "tag": "m"})])
    repo = net.repo(account)
    assert len(repo.records) == 301
    frames = await messages(net.relay_url, 4, count=1)
    header, body = parse(frames[0])
    assert header["t"] == "#sync"
    commit = decode(read_car(body["blocks"])[1][0][1])
    assert body["rev"] == repo.host_rev > commit["rev"] == repo.rev
    _, latest = await client.get(net.pds[0].url, SYNC + "getLatestCommit", did=account.did)
    assert latest["rev"] == repo.host_rev
    later = net.create(account, TAG, {"tag": "next"})
    assert later.commit.since == commit["rev"]
    assert later.commit.prev_data == commit["data"].cid


async def test_an_import_without_announcement_is_silent(net) -> None:
    account = await net.create_account()
    before = net.relay.stream.last_seq
    net.import_records(account, 40, ["app.bsky.feed.post"], announce=False)
    assert net.relay.stream.last_seq == before
    assert {path.partition("/")[0] for path in net.repo(account).paths} == {"app.bsky.feed.post"}
    assert max(key_height(path.encode()) for path in net.repo(account).paths) >= 1
