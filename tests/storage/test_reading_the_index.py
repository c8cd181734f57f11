"""The document for readers: every query runs and finds something, every column is there."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.storage.column_reference import DOCUMENT, reference, written
from tests.storage.query_plans import plan_of, scans, scans_in_loops
from tests.storage.typed_world import ALICE, BOB, GOVERNANCE, typed_world
from tests.unit.records.record_examples import full, minimal

EPRINT, COMMENT, ENDORSEMENT, TAG, NODE, EDGE = (
    f"pub.chive.{name}"
    for name in ("eprint.submission", "review.comment", "review.endorsement", "eprint.userTag",
                 "graph.node", "graph.edge")
)  # fmt: skip
CITATION = "pub.chive.eprint.citation"
RKEY = "3kherons22222"
URI = f"at://{ALICE}/{EPRINT}/{RKEY}"
FIELD, NARROW = (f"at://{GOVERNANCE}/{NODE}/{name}" for name in ("zoology", "ornithology"))
SHELF = f"at://{BOB}/{NODE}/shelf"
PARAMETERS = {
    "did": ALICE, "rkey": RKEY, "uri": URI, "words": "heron* AND danube", "field": FIELD,
    "collection": SHELF,
}  # fmt: skip
BLOCKS = re.findall(r"### (.+?)\n.*?```sql\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)

READ_WHOLE = {
    "2. The newest eprints with what people did with them": [
        "SCAN typed USING INDEX eprint_submission__1_created_at"  # as far as its limit
    ],
    "7. The tags in use, whatever their spelling": [
        "SCAN typed USING INDEX eprint_user_tag__1_normal_form"
    ],
    "10. What was refused, and why": ["SCAN record USING INDEX record_refused"],
    "And one for operators: is everything up to date?": ["SCAN repo"],
}

ALICES = {
    f"{EPRINT}/{RKEY}": full(EPRINT) | {"title": "Herons of the Danube", "fieldUris": [NARROW]},
    f"{COMMENT}/3kanswer22222": minimal(COMMENT)
    | {"eprintUri": URI, "parentComment": f"at://{BOB}/{COMMENT}/3kcomment2222"},
}
BOBS = {
    f"{COMMENT}/3kcomment2222": minimal(COMMENT) | {"eprintUri": URI},
    f"{ENDORSEMENT}/3kendorse2222": full(ENDORSEMENT) | {"eprintUri": URI},
    f"{CITATION}/3kcites222222": minimal(CITATION) | {"eprintUri": URI},
    f"{TAG}/3ktag22222222": full(TAG) | {"eprintUri": URI},
    f"{TAG}/3kinvalid2222": {"$type": TAG},
    f"{NODE}/shelf": minimal(NODE) | {"subkind": "collection"},
    f"{EDGE}/item": minimal(EDGE)
    | {"sourceUri": SHELF, "targetUri": URI, "relationSlug": "contains"},
}
GOVERNMENTS = {
    f"{NODE}/zoology": minimal(NODE) | {"label": "Zoology"},
    f"{NODE}/ornithology": minimal(NODE) | {"label": "Ornithology"},
    f"{EDGE}/broader": minimal(EDGE)
    | {"sourceUri": NARROW, "targetUri": FIELD, "relationSlug": "broader", "status": "established"},
}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("reading")

    async def populate() -> Path:
        async with typed_world(folder) as world:
            for did, values in ((ALICE, ALICES), (BOB, BOBS), (GOVERNANCE, GOVERNMENTS)):
                await world.commit(did, values)
            return world.path

    path = asyncio.run(populate())
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        yield connection


def test_there_are_eleven_queries_and_one_for_operators():
    assert [title.split(".")[0] for title, _ in BLOCKS] == [
        *map(str, range(1, 12)), BLOCKS[-1][0],
    ]  # fmt: skip


@pytest.mark.parametrize(("title", "sql"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_every_query_runs_and_finds_something(reader: sqlite3.Connection, title: str, sql: str):
    assert reader.execute(sql, PARAMETERS).fetchall()


def test_the_discussion_is_a_tree(reader: sqlite3.Connection):
    sql = dict(BLOCKS)["5. The discussion of an eprint as a tree"]
    assert [did for _, did in reader.execute(sql, PARAMETERS)] == [BOB, ALICE]


@pytest.mark.parametrize(("title", "sql"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_no_query_reads_a_whole_table_except_those_about_everything(
    reader: sqlite3.Connection, title: str, sql: str
):
    plan = plan_of(reader, sql, PARAMETERS)
    assert scans_in_loops(plan) == []
    assert scans(plan) == READ_WHOLE.get(title, [])


def test_no_view_reads_a_whole_table_for_each_of_its_rows(reader: sqlite3.Connection):
    names = reader.execute("SELECT name FROM sqlite_schema WHERE type = 'view'").fetchall()
    plans = {name: scans_in_loops(plan_of(reader, f'SELECT * FROM "{name}"')) for (name,) in names}
    assert len(plans) > 40
    assert not {name: found for name, found in plans.items() if found}


def test_a_scan_within_a_loop_is_recognised():
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript("CREATE TABLE a (x); CREATE TABLE b (x)")
        for sql, found in (
            ("SELECT * FROM a, b", ["SCAN b"]),
            ("SELECT (SELECT count(*) FROM b WHERE b.x < a.x) FROM a", ["SCAN b"]),
            (
                "SELECT * FROM a LEFT JOIN b USING (x)",
                ["SEARCH b USING AUTOMATIC COVERING INDEX (x=?) LEFT-JOIN"],
            ),
            ("WITH c AS MATERIALIZED (SELECT * FROM b) SELECT * FROM c", ["SCAN b"]),
            ("SELECT * FROM a UNION SELECT * FROM b", []),
            ("SELECT * FROM a JOIN json_each(a.x)", []),
        ):
            assert scans_in_loops(plan_of(connection, sql)) == found, sql


def test_each_refused_record_says_why_however_many_letters_there_are(reader: sqlite3.Connection):
    found = reader.execute("SELECT valid, problem FROM records ORDER BY valid LIMIT 2").fetchall()
    assert found == [(0, "eprintUri: is required"), (1, None)]


def test_all_views_and_columns_are_listed(reader: sqlite3.Connection):
    assert written() == reference(reader), "python -m tests.storage.column_reference"
