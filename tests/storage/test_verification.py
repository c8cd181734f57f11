"""`verify` finds every way in which the file can contradict its records, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import click.testing
import pytest

from indexer.cli import commands, main
from indexer.records.projection import SEARCH
from storage.database import open_database
from storage.verification import CHUNK_ROWS, check_search_index
from tests.storage.typed_world import ALICE, BOB, CAROL, GOVERNANCE, typed_world
from tests.unit.records.record_examples import RECORD_NSIDS, full, minimal, record_key

EPRINT, NODE, TAG = (
    "pub.chive.eprint.submission", "pub.chive.graph.node", "pub.chive.eprint.userTag",
)  # fmt: skip
URI = f"at://{ALICE}/{EPRINT}/3kabcdefghi2b"
FLOAT = b"\xa1\x61\x61\xfb\x3f\xf8\x00\x00\x00\x00\x00\x00"  # {"a": 1.5}


HIDDEN = "SELECT id, 'Hidden' FROM record WHERE path LIKE '%/3khidden22222'"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store with records of every type, valid, invalid and hidden."""
    folder = tmp_path_factory.mktemp("sound")

    async def populate() -> Path:
        async with typed_world(folder) as world:
            values = {f"{nsid}/{record_key(nsid)}": full(nsid) for nsid in RECORD_NSIDS}
            await world.commit(ALICE, values)
            await world.commit(GOVERNANCE, {f"{NODE}/n": full(NODE)})
            await world.commit(
                BOB,
                {
                    f"{TAG}/3ktag22222222": minimal(TAG) | {"eprintUri": URI, "tag": "fieldwork"},
                    f"{TAG}/3kfloat222222": FLOAT,
                    f"{TAG}/3kinvalid2222": {"$type": TAG},
                    "app.bsky.feed.post/3kpost2222222": {"$type": "app.bsky.feed.post", "n": 1},
                },
            )
            await world.commit(CAROL, {f"{EPRINT}/3khidden22222": minimal(EPRINT)})
            await world.set_account(CAROL, active=False)
            await world.settle()
            return world.path

    return asyncio.run(populate())


@pytest.fixture
def index(sound: Path, tmp_path: Path) -> Path:
    shutil.copy(sound, tmp_path / "index.db")
    return tmp_path / "index.db"


def verify(index: Path, *arguments: str) -> tuple[int, str]:
    config = index.with_suffix(".toml")
    config.write_text(f"[storage]\npath = {json.dumps(str(index))}\n")
    arguments = ("verify", *arguments, "--config", str(config))
    result = click.testing.CliRunner().invoke(commands, arguments, standalone_mode=False)
    assert result.exception is None, result.exception
    return result.return_value, result.output


def change(index: Path, sql: str, *parameters: object) -> None:
    """Spoil the file behind the daemon's back; foreign keys and triggers as they are."""
    with closing(sqlite3.connect(index)) as connection, connection:
        cursor = connection.execute(sql, parameters)
        assert cursor.rowcount != 0, sql


def test_a_sound_index_has_no_difference(index: Path):
    code, output = verify(index)
    assert output == f"{len(RECORD_NSIDS) + 6} records verified, 0 differences found.\n"
    assert code == 0
    assert verify(index, "--did", BOB) == (0, "4 records verified, 0 differences found.\n")
    code, output = verify(index, "--json")
    assert (code, json.loads(output)) == (
        0,
        {"records": len(RECORD_NSIDS) + 6, "differences": 0, "searchIndexChecked": True,
         "first": []},
    )  # fmt: skip


@pytest.mark.parametrize("did", ["did:plc:nobody", "", "alice.example", "x\udcff"])
def test_an_account_that_the_index_does_not_have_is_wrong_usage(index: Path, capsys, did: str):
    config = index.with_suffix(".toml")
    config.write_text(f"[storage]\npath = {json.dumps(str(index))}\n")
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--did", did, "--config", str(config)])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (os.EX_USAGE, "")
    assert "the index has no account" in err or "an argument is not UTF-8" in err


@pytest.mark.parametrize(
    ("what", "sql"),
    [
        ("cid", "UPDATE record SET value = replace(value, 'work', 'werk') WHERE value LIKE '%work%'"),
        ("cid", "UPDATE record SET cid = replace(cid, 'bafy', 'bafk') WHERE path LIKE '%.vote/%'"),
        ("value", "UPDATE record SET value = '{\"a\":1.5}' WHERE path LIKE '%.vote/%'"),
        ("value", "UPDATE record SET value = 'no JSON' WHERE path LIKE '%.vote/%'"),
        ("value", "UPDATE record SET value = '[1]' WHERE path LIKE '%.vote/%'"),
        ("value", "UPDATE record SET problem = NULL WHERE value IS NULL"),
        ("valid", "UPDATE record SET problem = NULL WHERE path LIKE '%invalid%'"),
        ("valid", "UPDATE record SET problem = 'tag: is wrong' WHERE path LIKE '%.mute/%'"),
        ("eprint_submission", "UPDATE eprint_submission__1 SET title = 'Another'"),
        ("eprint_submission", "UPDATE eprint_submission__1 SET doi = '10.1/x' WHERE doi IS NULL"),
        ("graph_vote", "DELETE FROM graph_vote__1"),
        ("graph_vote", "UPDATE graph_vote__1 SET record_id = 9999"),
        ("eprint_author", "DELETE FROM eprint_author__1"),
        ("eprint_keyword", "UPDATE eprint_keyword__1 SET position = position + 7"),
        ("denial", "INSERT INTO denial SELECT NULL, did, 'account', '', '', 0, 'no' FROM repo"),
        (
            "denial",
            "INSERT INTO denial SELECT NULL, uri, 'record', '', '', 0, 'done' FROM records LIMIT 1",
        ),
        ("mark", "UPDATE mark__1 SET subject = subject || 'x' WHERE name = 'tag'"),
        ("mark", "INSERT INTO mark__1 VALUES (1, 'reply', 'at://nowhere', NULL)"),
        ("eprint_search", "UPDATE eprint_search SET title = 'Another'"),
        ("eprint_search", "UPDATE eprint_search SET tags = ''"),
        ("eprint_search", "DELETE FROM eprint_search"),
        ("eprint_search", "INSERT INTO eprint_search (rowid, title) VALUES (9999, 'Ghost')"),
        ("eprint_search", f"INSERT INTO eprint_search (rowid, title) {HIDDEN}"),
        ("tally", "UPDATE tally SET total = total + 1 WHERE kind = 'collection'"),
        ("tally", "DELETE FROM tally WHERE kind = 'repo_state'"),
        ("tally", "INSERT INTO tally VALUES ('account_status', 'lost', 3)"),
        ("tally", "UPDATE tally SET total = 0 WHERE kind = 'dead_letter'"),
        ("search index", "DELETE FROM eprint_search_data WHERE id > 10"),
        ("search index", "DELETE FROM eprint_search_docsize"),
    ],
)  # fmt: skip
def test_what_was_changed_behind_its_back_is_found(index: Path, what: str, sql: str):
    change(index, sql)
    code, output = verify(index)
    assert code == 1
    assert f"\n{what}: " in "\n" + output, output


def test_one_account_is_verified_alone(index: Path):
    change(index, "UPDATE graph_vote__1 SET vote = 'other'")
    assert verify(index, "--did", ALICE)[0] == 1
    assert verify(index, "--did", BOB)[0] == 0


def test_the_first_differences_are_shown_and_all_are_counted(tmp_path: Path):
    count = CHUNK_ROWS + 3

    async def populate() -> Path:
        async with typed_world(tmp_path) as world:
            values = {
                f"app.any.thing/{n:05}": {"$type": "app.any.thing", "n": n} for n in range(count)
            }
            await world.fetch(ALICE, values)
            return world.path

    index = asyncio.run(populate())
    assert verify(index)[0] == 0
    change(index, "UPDATE record SET cid = 'other'")
    code, output = verify(index)
    lines = output.splitlines()
    assert code == 1 and len(lines) == 102
    assert lines[-2:] == [
        "... and 403 more", f"{count} records verified, {count} differences found.",
    ]  # fmt: skip


async def test_the_index_of_words_is_left_alone_while_a_daemon_has_the_file(index: Path):
    assert check_search_index(index, SEARCH) is None
    async with open_database(index):
        code, output = await asyncio.to_thread(verify, index)
    assert code == 0 and "The index of words was not checked" in output


def test_tables_of_another_governance_account_are_refused(index: Path):
    config = index.with_suffix(".toml")
    config.write_text(
        f'[storage]\npath = {json.dumps(str(index))}\n[governance]\ndid = "did:web:example.com"\n'
    )
    runner = click.testing.CliRunner()
    result = runner.invoke(commands, ["verify", "--config", str(config)], standalone_mode=False)
    assert "made by another version or for another governance.did" in str(result.exception)


async def test_what_the_queue_still_owes_is_no_difference(tmp_path: Path):
    async with typed_world(tmp_path) as world:
        await world.commit(ALICE, {f"{EPRINT}/3kabcdefghi2b": minimal(EPRINT)})
        await world.commit(
            BOB, {f"{TAG}/3ktag22222222": minimal(TAG) | {"eprintUri": URI, "tag": "fieldwork"}}
        )
        for did in (ALICE, BOB):
            await world.set_account(did, active=False)
            assert (await asyncio.to_thread(verify, world.path))[0] == 0
            await world.settle()
            assert (await asyncio.to_thread(verify, world.path))[0] == 0
