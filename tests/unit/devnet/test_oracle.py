"""The oracle says nothing about a right store and names every way in which one is wrong."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest

from tests import oracle
from tests.devnet import Devnet

TAG = "pub.chive.eprint.userTag"


def store_of(records: oracle.Records, path: Path) -> Path:
    """A store that shows `records`, by the public view alone."""
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE IF NOT EXISTS record (uri TEXT, cid TEXT, value TEXT)")
        db.execute("CREATE VIEW IF NOT EXISTS records AS SELECT uri, cid, value FROM record")
        db.execute("DELETE FROM record")
        db.executemany(
            "INSERT INTO record VALUES (?, ?, ?)",
            [
                (uri, cid, None if value is None else json.dumps(value))
                for uri, (cid, value) in records.items()
            ],
        )
    db.close()
    return path


async def small_network(net: Devnet):
    account = await net.create_account()
    net.create(account, TAG, {"tag": "a", "ref": {"$link": "bafkrei" + "a" * 52}}, rkey="a")
    net.create(account, TAG, {"tag": "b", "raw": {"$bytes": "AAEC"}}, rkey="b")
    net.create(account, "app.bsky.feed.post", {"text": "foreign"}, rkey="c")
    net.create_raw(account, TAG, b"\x00", rkey="d")
    other = await net.create_account(pds=1)
    net.create(other, TAG, {"tag": "hidden"})
    return account, other


async def test_expected_records_are_those_in_scope_of_visible_accounts(net) -> None:
    account, other = await small_network(net)
    net.set_account_status(other, "takendown")
    expected = oracle.expected_records(net)
    uri = f"at://{account.did}/{TAG}/"
    assert sorted(expected) == [uri + "a", uri + "b", uri + "d"]
    assert expected[uri + "a"][1]["ref"] == {"$link": "bafkrei" + "a" * 52}
    assert expected[uri + "b"][1]["raw"] == {"$bytes": "AAEC"}
    assert expected[uri + "d"][1] is None
    net.set_account_status(other, "active")
    assert len(oracle.expected_records(net)) == 4


def test_scope_patterns_are_cut_at_a_dot() -> None:
    assert oracle.in_scope("pub.chive.eprint.userTag/a")
    assert not oracle.in_scope("pub.chiveother.thing/a")
    assert oracle.in_scope("a.b.c/d", ["a.b.c"])
    assert not oracle.in_scope("a.b.cd/e", ["a.b.c"])


async def test_an_equal_store_passes(net, tmp_path) -> None:
    await small_network(net)
    path = store_of(oracle.expected_records(net), tmp_path / "x.db")
    oracle.assert_store_equals(net, path)
    assert await oracle.wait_until_equal(net, path) < 1


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("DELETE FROM record WHERE rowid = 1", "missing"),
        ("INSERT INTO record VALUES ('at://did:plc:x/a/b', 'bafy', '{}')", "too many"),
        ("UPDATE record SET cid = 'bafyother' WHERE rowid = 1", "differs"),
        ("UPDATE record SET value = '{}' WHERE rowid = 2", "differs"),
        ("UPDATE record SET value = NULL WHERE rowid = 2", "differs"),
        ("INSERT INTO record SELECT * FROM record LIMIT 1", "twice"),
    ],
)
async def test_every_difference_fails(net, tmp_path, harm, message) -> None:
    await small_network(net)
    path = store_of(oracle.expected_records(net), tmp_path / "x.db")
    with sqlite3.connect(path) as db:
        db.execute(harm)
    db.close()
    with pytest.raises(AssertionError, match=message):
        oracle.assert_store_equals(net, path)
    with pytest.raises(AssertionError, match=message):
        await oracle.wait_until_equal(net, path, timeout_s=0.05)


async def test_heads_are_compared_where_the_store_must_have_the_repo(net, tmp_path) -> None:
    account, other = await small_network(net)
    await net.create_account()
    heads = oracle.expected_heads(net)
    assert set(heads) == {account.did, other.did}
    path = store_of(oracle.expected_records(net), tmp_path / "x.db")
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE accounts (did, rev, data_cid, status, state)")
        for did, head in heads.items():
            db.execute("INSERT INTO accounts VALUES (?, ?, ?, 'active', 'active')", (did, *head))
        db.execute("INSERT INTO accounts VALUES ('did:plc:x', '', '', 'active', 'active')")
    oracle.assert_heads_equal(net, path)
    await oracle.wait_until_equal(net, path, heads=True)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE accounts SET state = 'desynchronized' WHERE did = ?", (other.did,))
    db.close()
    with pytest.raises(AssertionError, match=f"heads differ.*\n.*{other.did}"):
        await oracle.wait_until_equal(net, path, timeout_s=0.05, heads=True)


async def test_a_store_that_is_not_there_yet_shows_nothing(net, tmp_path) -> None:
    assert oracle.read_records(tmp_path / "none.db") == {}
    with sqlite3.connect(tmp_path / "empty.db"):
        pass
    assert oracle.read_records(tmp_path / "empty.db") == {}
    oracle.assert_store_equals(net, tmp_path / "none.db")


async def test_waiting_ends_when_the_store_catches_up(net, tmp_path) -> None:
    await small_network(net)
    path = tmp_path / "x.db"
    store_of({}, path)
    waiting = asyncio.create_task(oracle.wait_until_equal(net, path))
    await asyncio.sleep(0)
    assert not waiting.done()
    store_of(oracle.expected_records(net), path)
    assert await waiting < 5
