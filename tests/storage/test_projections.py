"""Search rows hold texts of other records: whatever comes in whatever order, they are right."""

import asyncio
import shutil
import sqlite3
from contextlib import closing
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.derived import Mark, Projection
from indexer.model import PreparedRecord, RepoState, Source
from indexer.planning import Repo
from indexer.records.projection import SEARCH
from indexer.records.registry import load_registry
from storage.database import open_database
from storage.projections import Projections
from storage.records import RecordTable, RowWrite
from storage.repos import insert_repo
from storage.rows import SIZES, insert_rows
from storage.typed_schema import SEARCH_TUNING
from tests.storage.conftest import DID

REGISTRY = load_registry(governance_did=DID)
EPRINT, TAG, NODE = (
    f"pub.chive.{name}" for name in ("eprint.submission", "eprint.userTag", "graph.node")
)
EPRINTS, TAGS, NODES = ("e1", "e2"), ("t1", "t2", "t3"), ("n1", "n2")
TEXTS = st.sampled_from(["alpha", "beta", ""])
OPS = st.one_of(
    st.tuples(st.sampled_from(EPRINTS), st.sampled_from([*NODES, None]), TEXTS),
    st.tuples(st.sampled_from(TAGS), st.sampled_from([*EPRINTS, None]), TEXTS),
    st.tuples(st.sampled_from(NODES), st.sampled_from(["label", None]), TEXTS),
)
"""(rkey, what it refers to, text); a reference of None deletes the record."""


def collection(rkey):
    return {"e": EPRINT, "t": TAG, "n": NODE}[rkey[0]]


def uri(rkey):
    return f"at://{DID}/{collection(rkey)}/{rkey}"


def prepared(rkey, reference, text):
    """The record as the rest of the system hands it over, with nothing but what search needs."""
    name, subject, said, search = {
        "e": lambda: ("field", uri(reference), None, (text, "", "", "")),
        "t": lambda: ("tag", uri(reference), text, None),
        "n": lambda: ("label", uri(rkey), text, None),
    }[rkey[0]]()
    kind = REGISTRY.types[collection(rkey)]
    projection = Projection(
        row=(None,) * len(kind.columns), side_rows={}, marks=(Mark(name, subject, said),), search=search
    )  # fmt: skip
    return PreparedRecord(
        f"{kind.nsid}/{rkey}", f"{rkey} {reference} {text}", "{}", None, projection
    )


def expected(records):
    """rkey of each eprint -> (title, fields, tags)."""
    rows = {}
    for rkey, (reference, text) in records.items():
        if rkey in EPRINTS:
            label = records.get(reference, (None, ""))[1]
            tags = {said for tag, (on, said) in records.items() if tag in TAGS and on == rkey}
            rows[rkey] = (text, label, " ".join(sorted(tags - {""})))
    return rows


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A store with all tables and one repo, as a file to copy."""
    path = tmp_path_factory.mktemp("projections") / "index.db"

    async def make():
        async with open_database(path) as database:
            projections = Projections(REGISTRY.types, SEARCH)
            await database.write(partial(projections.install, judged_by=REGISTRY.lexicon_id))
            repo = Repo(id=None, did=DID, state=RepoState.ACTIVE)
            await database.write(partial(insert_repo, repo=repo, at="now"))

    asyncio.run(make())
    return path


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches=st.lists(st.lists(OPS, max_size=6), max_size=5))
def test_search_rows_follow_tags_and_labels_in_any_order(empty_store, tmp_path, batches):
    path = tmp_path / "index.db"
    shutil.copyfile(empty_store, path)
    table = RecordTable(Projections(REGISTRY.types, SEARCH))
    records = {}
    with closing(sqlite3.connect(path)) as connection:
        for batch in batches:
            writes = {}
            for rkey, reference, text in batch:
                record = None if reference is None else prepared(rkey, reference, text)
                writes[1, f"{collection(rkey)}/{rkey}"] = RowWrite(DID, "rev", record)
                records.pop(rkey, None)
                if reference is not None:
                    records[rkey] = (reference, text)
            table.write(connection, writes, source=Source.LIVE, at="now", now=0.0)
            rows = connection.execute(
                "SELECT record.path, title, fields, tags FROM eprint_search"
                " JOIN record ON record.id = eprint_search.rowid"
            )
            assert {row[0][-2:]: row[1:] for row in rows} == expected(records)
        connection.execute("INSERT INTO eprint_search (eprint_search) VALUES ('integrity-check')")


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 63, 64, 65, 2 * 64 + 3 * 8 + 5])
def test_rows_are_inserted_once_each_however_many(tmp_path, count):
    rows = [(number, f"text {number}", None, "a\0b") for number in range(count)]
    with closing(sqlite3.connect(tmp_path / "rows.db")) as connection:
        connection.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, a TEXT, b TEXT, c TEXT)")
        insert_rows(connection, "things", rows)
        assert connection.execute("SELECT * FROM things ORDER BY id").fetchall() == rows
        insert_rows(connection, "things (a)", [("more",)] * count)
        assert connection.execute("SELECT count(*) FROM things").fetchone() == (2 * count,)


def test_the_widest_table_fits_one_statement():
    widest = max(len(kind.columns) for kind in REGISTRY.types.values())
    assert (widest + 1) * max(SIZES) < 32766


async def test_the_index_of_a_store_merges_in_small_pieces_whatever_version_made_it(tmp_path):
    projections = Projections(REGISTRY.types, SEARCH)
    install = partial(projections.install, judged_by="today")
    found = "SELECT k, v FROM eprint_search_config"
    async with open_database(tmp_path / "index.db") as database:
        await database.write(install)
        assert dict(await database.read(found)).items() >= SEARCH_TUNING.items()
        await database.write(
            lambda c: c.execute("DELETE FROM eprint_search_config WHERE k <> 'version'").rowcount
        )
    async with open_database(tmp_path / "index.db") as database:
        await database.write(install)
        assert dict(await database.read(found)).items() >= SEARCH_TUNING.items()
