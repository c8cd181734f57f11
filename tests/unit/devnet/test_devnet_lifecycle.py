"""What happens to accounts as a whole, as the recording shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from devnet_clients import kinds, messages, parse
from devnet_verifier import verdict

from tests.devnet import COLLECTIONS, Activity, Change, Devnet, realistic_record, unreadable_blocks
from tests.devnet.car import read_car
from tests.devnet.cbor import decode, decode_at
from tests.devnet.clock import tid
from tests.devnet.records import SINGLETONS

TAG = "pub.chive.eprint.userTag"
NOW_REV = tid(4_000_000_000_000_000)


async def account_with_a_tag(net: Devnet):
    account = await net.create_account()
    net.create(account, TAG, {"tag": "x"}, rkey="one")
    return account


async def after(net: Devnet, seq: int) -> list[dict]:
    """Type and body of every event after `seq`."""
    count = net.relay.stream.last_seq - seq
    frames = await messages(net.relay_url, seq, count=count)
    return [{"t": parse(frame)[0]["t"], **parse(frame)[1]} for frame in frames]


def shown(events: list[dict]) -> list[tuple]:
    return [(event["t"], event.get("status"), event.get("handle")) for event in events]


async def test_deactivation_and_activation(net) -> None:
    account = await account_with_a_tag(net)
    seq = net.relay.stream.last_seq
    net.set_account_status(account, "deactivated")
    assert not net.is_visible(account)
    net.set_account_status(account, "active")
    assert net.is_visible(account)
    assert shown(await after(net, seq)) == [
        ("#account", "deactivated", None),
        ("#account", None, None),
        ("#identity", None, account.handle),
        ("#sync", None, None),
    ]


async def test_a_lifted_takedown_has_no_sync(net) -> None:
    account = await account_with_a_tag(net)
    seq = net.relay.stream.last_seq
    net.set_account_status(account, "takendown")
    net.set_account_status(account, "active")
    assert shown(await after(net, seq)) == [
        ("#account", "takendown", None),
        ("#account", None, None),
    ]


async def test_a_takedown_covers_a_deactivation(net) -> None:
    account = await account_with_a_tag(net)
    seq = net.relay.stream.last_seq
    net.set_account_status(account, "deactivated")
    net.set_account_status(account, "takendown")
    net.set_account_status(account, "active")
    assert [event[:2] for event in shown(await after(net, seq))] == [
        ("#account", "deactivated"),
        ("#account", "takendown"),
        ("#account", "deactivated"),
        ("#account", None),
        ("#identity", None),
        ("#sync", None),
    ]


async def test_deletion_is_the_last_event_and_the_document_stays(net) -> None:
    account = await account_with_a_tag(net)
    net.set_account_status(account, "deleted")
    events = await after(net, net.relay.stream.last_seq - 1)
    assert shown(events) == [("#account", "deleted", None)]
    assert events[0]["active"] is False
    assert net.document(account.did)["service"][0]["serviceEndpoint"] == net.pds[0].url
    assert net.resolve_handle(account.handle) is None
    assert not net.is_visible(account)


async def test_an_unknown_status_is_refused(net) -> None:
    account = await account_with_a_tag(net)
    with pytest.raises(ValueError, match="banned"):
        net.set_account_status(account, "banned")


async def test_a_handle_change_is_one_identity_and_one_plc_operation(net) -> None:
    account = await account_with_a_tag(net)
    seq, old = net.relay.stream.last_seq, account.handle
    net.change_handle(account, "new.example.test")
    assert shown(await after(net, seq)) == [("#identity", None, "new.example.test")]
    assert net.document(account.did)["alsoKnownAs"] == ["at://new.example.test"]
    assert (net.resolve_handle(old), net.resolve_handle("new.example.test")) == (None, account.did)


@pytest.mark.parametrize("curve", [None, "p256"])
async def test_after_a_rotation_the_next_commit_has_the_new_key(net, curve) -> None:
    account = await account_with_a_tag(net)
    seq, old = net.relay.stream.last_seq, account.key
    head = net.repo(account).commit_cid
    net.rotate_key(account, curve)
    assert net.repo(account).commit_cid == head
    assert account.key.curve == (curve or "k256")
    net.create(account, TAG, {"tag": "later"})
    events = await after(net, seq)
    assert shown(events) == [("#identity", None, None), ("#commit", None, None)]
    frame = net.relay.stream.after(seq + 1)[0].frame
    assert verdict(frame, old, account.did, NOW_REV) == "signature"
    if curve is None:
        assert verdict(frame, account.key, account.did, NOW_REV) == "true"


async def test_migration_follows_the_recording(net) -> None:
    account = await account_with_a_tag(net)
    net.create(account, TAG, {"tag": "y"})
    old_key, old_rev = account.key, net.repo(account).rev
    seq = net.relay.stream.last_seq
    net.migrate(account, 1)
    events = await after(net, seq)
    assert shown(events) == [
        ("#identity", None, None),
        ("#account", None, None),
        ("#identity", None, account.handle),
        ("#sync", None, None),
        ("#account", "deactivated", None),
    ]
    assert account.handle.endswith(".pds2.test")
    commit = decode(read_car(events[3]["blocks"])[1][0][1])
    assert events[3]["rev"] > commit["rev"] == old_rev
    assert (net.pds[0].stream.last_seq, net.pds[1].stream.last_seq) == (7, 4)
    assert net.pds[0].hosted[account.did].status == "deactivated"
    assert net.is_visible(account)
    assert net.document(account.did)["service"][0]["serviceEndpoint"] == net.pds[1].url
    written = net.create(account, TAG, {"tag": "on the new host"})
    frame = net.relay.stream.after(net.relay.stream.last_seq - 1)[0].frame
    assert written.commit.since == old_rev
    assert verdict(frame, account.key, account.did, NOW_REV) == "true"
    assert verdict(frame, old_key, account.did, NOW_REV) == "signature"
    assert len(net.pds[0].hosted[account.did].repo.records) == 2


async def test_an_account_can_come_back_to_its_first_host(net) -> None:
    account = await account_with_a_tag(net)
    net.migrate(account, 1)
    net.create(account, TAG, {"tag": "y"})
    net.migrate(account, 0)
    assert net.is_visible(account)
    assert len(net.repo(account).records) == 2
    assert net.hosting(account) is net.pds[0].hosted[account.did]


async def test_missing_types_are_filled_in_and_explicit_ones_kept(net) -> None:
    account = await net.create_account()
    net.create(account, TAG, {"tag": "x"}, rkey="a")
    net.create(account, TAG, {"tag": "x", "$type": "other.type.here"}, rkey="b")
    values = {path: value for path, _, value in net.records(account)}
    assert values[f"{TAG}/a"]["$type"] == TAG
    assert values[f"{TAG}/b"]["$type"] == "other.type.here"


async def test_unreadable_records_are_in_the_repo_and_have_no_value(net) -> None:
    account = await net.create_account()
    blocks = unreadable_blocks(TAG)
    for block in blocks.values():
        net.create_raw(account, TAG, block)
    assert len(net.repo(account).records) == len(blocks) > 12
    assert {value for _, _, value in net.records(account)} == {None}
    frames = [entry.frame for entry in net.relay.stream.after(4)]
    assert {verdict(frame, account.key, account.did, NOW_REV) for frame in frames} == {"true"}


async def test_two_hundred_writes_are_one_commit(net) -> None:
    account = await net.create_account()
    value = {"tag": "many"}
    commit = net.apply_writes(
        account, [Change("create", TAG, f"r{number}", value) for number in range(200)]
    )
    assert len(commit.ops) == 200
    assert len(set(net.repo(account).records.values())) == 1
    body = decode_at(net.relay.stream.after(4)[0].frame, 15)[0]
    assert len(body["ops"]) == 200


async def test_activity_covers_everything_an_account_can_do() -> None:
    async with Devnet(seed=8) as net:
        activity = Activity(net)
        await activity.steps(1500)
        deeds = "account create update delete foreign handle key status migration"
        assert set(activity.done) == set(deeds.split())
        assert len(net.accounts) == 20
        assert {account.key.curve for account in net.accounts.values()} == {"k256", "p256"}
        k256 = [account for account in net.accounts.values() if account.key.curve == "k256"]
        for account in k256:
            entries = [e for e in net.relay.stream.after(0, 10**6) if e.event.did == account.did]
            last = [entry for entry in entries if kinds([entry.frame]) == ["#commit"]][-1]
            assert verdict(last.frame, account.key, account.did, NOW_REV) in ("true", "signature")


async def test_calm_activity_changes_no_accounts() -> None:
    async with Devnet(seed=8) as net:
        activity = Activity(net, is_calm=True)
        await activity.steps(400)
        assert set(activity.done) == {"account", "create", "update", "delete", "foreign"}


def test_records_satisfy_their_lexicons() -> None:
    lexicon = pytest.importorskip("indexer.protocol.lexicon")
    import random

    documents = Path(__file__).parents[3] / "indexer" / "lexicons"
    catalog = lexicon.LexiconCatalog.from_documents(
        [json.loads(path.read_text()) for path in sorted(documents.glob("*.json"))]
    )
    rng = random.Random(1)
    problems = {}
    for collection in (*COLLECTIONS, *SINGLETONS):
        for _ in range(50):
            problem = catalog.validate_record(collection, realistic_record(rng, collection))
            if problem is not None:
                problems[collection] = problem
    assert problems == {}
