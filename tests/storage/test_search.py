"""Searching a populated store, through the command where the terminal matters."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import click.testing
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.cli import commands, main
from indexer.records.projection import SEARCH, SEARCH_TEXT_CHARS_MAX
from storage.generations import current_generation
from storage.search import BEGIN_MARK, END_MARK, RANKED_MAX, SearchFilter, search_eprints
from storage.search_build import select_rows
from storage.search_rows import INLINE_CHARS, OWN_CHARS
from storage.search_texts import TextsOfOthers
from tests.storage.column_reference import DOCUMENT
from tests.storage.query_plans import plan_of, scans, scans_in_loops
from tests.storage.typed_world import ALICE, BOB, GOVERNANCE, typed_world
from tests.unit.records.record_examples import minimal

EPRINT, NODE, TAG = (
    "pub.chive.eprint.submission", "pub.chive.graph.node", "pub.chive.eprint.userTag",
)  # fmt: skip
FIELD = f"at://{GOVERNANCE}/{NODE}/ornithology"


def eprint(title: str, abstract: str = "", **fields: object) -> dict:
    items = [{"$type": "pub.chive.richtext.defs#textItem", "type": "text", "content": abstract}]
    return minimal(EPRINT) | {"title": title, "abstract": items} | fields


EPRINTS = {
    "3kherons22222": eprint(
        "Herons of the Danube",
        "We count grey herons; egrets too.",
        authors=[{"name": "Émile Dûpont", "order": 1, "orcid": "0000-0002-1825-0097"}],
        fieldUris=[FIELD],
        createdAt="2024-05-01T00:00:00Z",
    ),
    "3kcafe2222222": eprint(
        "Café culture in Vienna",
        "Coffee and conversation near the Danube.",
        authors=[{"name": "Ada Lovelace", "order": 1, "handle": "ada.example.com"}],
        licenseSlug="MIT",
        createdAt="2025-05-01T00:00:00Z",
    ),
    "3kevil2222222": eprint(
        "\x1b[31mRed\x1b[0m \x02herring\x03", "Danube", createdAt="2025-06-01T00:00:00Z"
    ),
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a closed store."""
    folder = tmp_path_factory.mktemp("search")

    async def populate() -> Path:
        async with typed_world(folder) as world:
            await world.commit(ALICE, {f"{EPRINT}/{k}": value for k, value in EPRINTS.items()})
            node = minimal(NODE) | {"label": "Ornithology"}
            await world.commit(GOVERNANCE, {f"{NODE}/ornithology": node})
            tag = minimal(TAG) | {
                "eprintUri": f"at://{ALICE}/{EPRINT}/3kherons22222", "tag": "fieldwork",
            }  # fmt: skip
            await world.commit(BOB, {f"{TAG}/3ktag22222222": tag})
            return world.path

    return asyncio.run(populate())


@pytest.fixture(scope="module")
def reader(index: Path):
    with closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as connection:
        yield connection


@pytest.fixture
def find(reader: sqlite3.Connection) -> Callable[..., list[str]]:
    def rkeys(query: str, **wanted: object) -> list[str]:
        found = search_eprints(reader, query, SearchFilter(**wanted), limit=10)
        return [eprint.uri.rpartition("/")[2][2:].rstrip("2") for eprint in found]

    return rkeys


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("herons", ["herons"]),
        ("HERONS", ["herons"]),
        ("cafe", ["cafe"]),
        ("CAFÉ", ["cafe"]),
        ("dupont", ["herons"]),
        ("hero*", ["herons"]),
        ("hero", []),
        ("danube herons", ["herons"]),
        ('"grey herons"', ["herons"]),
        ('"herons grey"', []),
        ('"grey her"*', ["herons"]),
        ("ornithology", ["herons"]),
        ("fieldwork", ["herons"]),
        ("herons OR coffee", []),
        ("herons !!! -- ***", ["herons"]),
        ("", []),
        ("?!", []),
        ("title:herons", ["herons"][:0]),
    ],
)
def test_words_are_found_however_they_are_written(find, query, found):
    assert find(query) == found


async def test_a_run_of_letters_without_spaces_is_found_by_its_beginning(tmp_path):
    async with typed_world(tmp_path) as world:
        await world.commit(ALICE, {f"{EPRINT}/3khan22222222": eprint("机器学习的基础")})
        with closing(sqlite3.connect(f"file:{world.path}?mode=ro", uri=True)) as reader:
            found = {
                query: len(search_eprints(reader, query, SearchFilter(), limit=10))
                for query in ("机器*", "机器学习的基础", "机器", "学习*")
            }
    assert found == {"机器*": 1, "机器学习的基础": 1, "机器": 0, "学习*": 0}


LONG = (
    "Coffee, conversation and the conduct of everyday life along the middle and lower Danube:"
    " a comparative ethnography of eleven river towns"
)


async def test_a_long_title_in_quotation_marks_is_found(tmp_path):
    word = "methionylthreonyl" * 9
    async with typed_world(tmp_path) as world:
        await world.commit(ALICE, {f"{EPRINT}/3klong2222222": eprint(LONG, word)})
        with closing(sqlite3.connect(f"file:{world.path}?mode=ro", uri=True)) as reader:
            for query in (f'"{LONG}"', f'"{LONG[:-3]}"', word):
                [found] = search_eprints(reader, query, SearchFilter(), limit=10)
                assert found.uri == f"at://{ALICE}/{EPRINT}/3klong2222222"
            others = f'"{LONG[:90]} and tea"'
            assert search_eprints(reader, others, SearchFilter(), limit=10) == []


def test_matches_in_the_title_rank_first(find):
    assert find("danube")[0] == "herons"
    assert sorted(find("danube")) == ["cafe", "evil", "herons"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"author": "dupont"}, ["herons"]),
        ({"author": "emile dupont"}, ["herons"]),
        ({"author": "danube"}, []),
        ({"author": "0000-0002-1825-0097"}, ["herons"]),
        ({"author": "https://orcid.org/0000-0002-1825-0097"}, ["herons"]),
        ({"author": "@ada.example.com"}, ["cafe"]),
        ({"author": ALICE}, ["cafe", "evil", "herons"]),
        ({"author": BOB}, []),
        ({"field": "ornithology"}, ["herons"]),
        ({"field": FIELD}, ["herons"]),
        ({"field": FIELD + "x"}, []),
        ({"year": 2025}, ["cafe", "evil"]),
        ({"licence": "mit"}, ["cafe"]),
        ({"licence": "MIT", "year": 2024}, []),
    ],
)
def test_filters_narrow_what_is_found(find, wanted, found):
    assert sorted(find("danube", **wanted)) == found


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"year": 2025}, ["evil", "cafe"]),
        ({"author": ALICE}, ["evil", "cafe", "herons"]),
        ({"author": ALICE, "year": 2024}, ["herons"]),
        ({"author": "dupont", "year": 2024}, ["herons"]),
        ({"author": "dupont", "year": 2025}, []),
        ({"author": "0000-0002-1825-0097"}, ["herons"]),
        ({"author": BOB}, []),
        ({"field": "ornithology"}, ["herons"]),
        ({"field": FIELD}, ["herons"]),
        ({"licence": "mit"}, ["cafe"]),
        ({"author": "?!"}, []),
    ],
)
def test_filters_alone_list_what_fits_them_newest_first(find, wanted, found):
    assert find("", **wanted) == found


def test_lists_have_pages_and_the_beginning_of_the_abstract(reader):
    pages = [
        search_eprints(reader, "", SearchFilter(author=ALICE), limit=1, offset=at)
        for at in range(4)
    ]
    assert [[each.title for each in page] for page in pages[1:]] == [
        ["Café culture in Vienna"], ["Herons of the Danube"], [],
    ]  # fmt: skip
    assert pages[2][0].snippet == "We count grey herons; egrets too."


def test_what_matched_is_marked_in_title_and_snippet(reader):
    found = search_eprints(reader, "herons", SearchFilter(), limit=1)[0]
    assert found.title == f"{BEGIN_MARK}Herons{END_MARK} of the Danube"
    assert f"{BEGIN_MARK}" in found.snippet
    assert found.authors == ("Émile Dûpont",)


FILTERS = [
    {"author": ALICE}, {"author": "@ada.example.com"}, {"author": "0000-0002-1825-0097"},
    {"author": "Ada"}, {"field": FIELD}, {"field": "Ornithology"}, {"year": 2024},
    {"licence": "mit"}, {"year": 2024, "licence": "mit"}, {"author": ALICE, "field": FIELD},
]  # fmt: skip


@pytest.mark.parametrize("query", ["", "danube", "dan*"], ids=["alone", "word", "prefix"])
@pytest.mark.parametrize("wanted", FILTERS, ids=str)
def test_no_search_reads_a_whole_table(reader, query, wanted):
    statements: list[str] = []
    reader.set_trace_callback(statements.append)
    search_eprints(reader, query, SearchFilter(**wanted), limit=10)
    reader.set_trace_callback(None)
    [statement] = [each for each in statements if each.lstrip().startswith("WITH")]
    plan = plan_of(reader, statement)
    assert (scans(plan), scans_in_loops(plan)) == ([], [])


async def test_a_handle_is_found_in_either_case(tmp_path):
    async with typed_world(tmp_path) as world:
        authors = [{"name": "Ada", "order": 1, "handle": "Ada.Example.com"}]
        await world.commit(ALICE, {f"{EPRINT}/3ka": eprint("Herons", authors=authors)})
        with closing(sqlite3.connect(world.path)) as connection:
            for query, handle in itertools.product(
                ("", "herons"), ("@ada.example.com", "@ADA.example.COM")
            ):
                found = search_eprints(connection, query, SearchFilter(author=handle), limit=9)
                assert len(found) == 1, (query, handle)


async def test_a_licence_is_found_in_either_case_with_words_and_without(tmp_path):
    async with typed_world(tmp_path) as world:
        slugs = {"3ka": "MIT", "3kb": "mit", "3kc": "GPL-3.0"}
        values = {f"{EPRINT}/{rkey}": eprint("Herons", licenseSlug=s) for rkey, s in slugs.items()}
        await world.commit(ALICE, values)
        with closing(sqlite3.connect(world.path)) as connection:
            for query in ("", "herons"):
                found = search_eprints(connection, query, SearchFilter(licence="Mit"), limit=9)
                assert {each.licence for each in found} == {"MIT", "mit"}


def test_how_many_matches_are_ranked_is_said_where_one_searches(index):
    for text in (run(index, "search", "--help").output, DOCUMENT.read_text()):
        assert f"of more than {RANKED_MAX:,} matches" in " ".join(text.split()).lower()


def test_pages_do_not_overlap(reader):
    pages = [
        search_eprints(reader, "danube", SearchFilter(), limit=1, offset=at)[0].uri
        for at in range(3)
    ]
    assert len(set(pages)) == 3
    assert search_eprints(reader, "danube", SearchFilter(), limit=1, offset=3) == []


async def test_search_holds_the_beginning_of_a_long_text_and_equals_a_rebuild(tmp_path):
    words = "word " * (SEARCH_TEXT_CHARS_MAX // 5 - 1)
    long = eprint("Long\0herons", words + "last beyond", keywords=["a" * 50] * 3)
    tag = minimal(TAG) | {"eprintUri": f"at://{ALICE}/{EPRINT}/3klong2222222", "tag": "x\0rare"}
    async with typed_world(tmp_path) as world:
        await world.commit(ALICE, {f"{EPRINT}/3klong2222222": long})
        await world.commit(BOB, {f"{TAG}/3ktag22222222": tag})
        rows = await world.rows("SELECT * FROM eprint_search")
        assert [len(row[1]) for row in rows] == [SEARCH_TEXT_CHARS_MAX]
        assert await world.one("SELECT length(abstract_plain_text) FROM eprint_submission") > max(
            len(row[1]) for row in rows
        )
        for query, count in (("last", 1), ("beyond", 0), ("herons", 1), ("rare", 1)):
            found = await world.rows(
                "SELECT 1 FROM eprint_search WHERE eprint_search MATCH ?", query
            )
            assert len(found) == count, query
        with closing(sqlite3.connect(world.path)) as connection:
            [one] = search_eprints(connection, "herons", SearchFilter(), limit=2)
        assert one.title == f"Long {BEGIN_MARK}herons{END_MARK}"
        await world.reindex()
        assert await world.rows("SELECT * FROM eprint_search") == rows


async def test_what_one_transaction_rewrites_is_bounded_in_characters(tmp_path):
    chars = SEARCH_TEXT_CHARS_MAX
    inline = -(-INLINE_CHARS // chars)
    papers = {
        f"{EPRINT}/n{n}": eprint("x", "y" * chars, fieldUris=[FIELD]) for n in range(inline + 2)
    }
    tags = {
        f"{TAG}/n{n}": minimal(TAG) | {"eprintUri": f"at://{ALICE}/{EPRINT}/n{n}", "tag": "birds"}
        for n in range(inline + 2)
    }  # fmt: skip
    found = "SELECT count(*) FROM eprint_search WHERE eprint_search MATCH ?"
    async with typed_world(tmp_path) as world:
        await world.fetch(ALICE, papers)
        await world.commit(BOB, tags)
        assert await world.one(found, "birds") == inline
        await world.commit(
            GOVERNANCE, {f"{NODE}/ornithology": minimal(NODE) | {"label": "Zoology"}}
        )
        assert await world.one(found, "zoology") == inline
        await world.settle()
        assert await world.one(found, "birds AND zoology") == inline + 2
        await world.set_account(ALICE, active=False)
        await world.settle()
        assert await world.one(found, "birds") == 0
        await world.set_account(ALICE, active=True)
        await world.settle()
        assert await world.one(found, "birds AND zoology") == inline + 2
        rows = await world.rows("SELECT rowid, * FROM eprint_search ORDER BY rowid")
        await world.reindex()
        assert await world.rows("SELECT rowid, * FROM eprint_search ORDER BY rowid") == rows


async def test_long_texts_of_many_records_wait_for_their_turn(tmp_path: Path):
    """New, changed and deleted: the index reads what it takes in, and what it takes out."""
    chars = SEARCH_TEXT_CHARS_MAX
    at_once = OWN_CHARS // chars
    paths = [f"{EPRINT}/n{n}" for n in range(at_once + 3)]
    found = "SELECT count(*) FROM eprint_search WHERE eprint_search MATCH ?"
    async with typed_world(tmp_path) as world:
        await world.commit(ALICE, {path: eprint("heron", "y" * chars) for path in paths})
        assert await world.one(found, "heron") == at_once
        await world.settle()
        assert await world.one(found, "heron") == len(paths)
        await world.commit(ALICE, {path: eprint("egret", "y" * chars) for path in paths})
        assert 0 < await world.one(found, "heron") <= 3
        await world.commit(ALICE, {paths[-1]: None})
        await world.settle()
        assert await world.one(found, "heron") == 0
        assert await world.one(found, "egret") == len(paths) - 1
        await world.commit(ALICE, dict.fromkeys(paths[:-1]))
        assert 0 < await world.one(found, "egret") <= 3
        await world.commit(ALICE, {path: eprint("stork", "y" * chars) for path in paths})
        await world.settle()
        assert await world.one(found, "egret") == 0
        assert await world.one(found, "stork") == len(paths)


async def test_a_row_costs_what_its_record_names_however_many_nodes_there_are(tmp_path: Path):
    nodes = {f"{NODE}/n{n}": minimal(NODE) | {"label": f"label {n}"} for n in range(300)}
    named = [f"at://{BOB}/{NODE}/n{n}" for n in (7, 5)]
    async with typed_world(tmp_path) as world:
        await world.fetch(BOB, nodes)
        await world.commit(ALICE, {f"{EPRINT}/n": eprint("heron", fieldUris=named)})
        record_id = await world.one("SELECT rowid FROM eprint_search")
        steps = itertools.count()
        with closing(sqlite3.connect(world.path)) as connection:
            others = TextsOfOthers(SEARCH, current_generation(connection))
            connection.execute("ATTACH DATABASE ? AS store", (str(world.path),))
            connection.execute("ATTACH DATABASE '' AS part")
            own = ", ".join(f'"{name}"' for name in SEARCH.own)
            connection.execute(f"CREATE TABLE part.own (record_id INTEGER PRIMARY KEY, {own})")
            connection.execute("INSERT INTO part.own (record_id) VALUES (?)", (record_id,))
            connection.set_progress_handler(lambda: next(steps) < 0, 1)
            assert others.labels(connection, record_id, "field") == "label 7 label 5"
            assert next(steps) < 300
            [row] = connection.execute(select_rows("eprint_search__1", SEARCH), (0, 9)).fetchall()
            assert "label 7 label 5" in row
            assert next(steps) < 600


async def test_no_record_is_found_by_the_text_of_a_deleted_one(tmp_path: Path):
    """Rows that wait to be taken out keep their ids to themselves, also across a restart."""
    many = range(OWN_CHARS // SEARCH_TEXT_CHARS_MAX + 3)
    async with typed_world(tmp_path) as world:
        await world.commit(BOB, {})
        long = eprint("heron", "y" * SEARCH_TEXT_CHARS_MAX)
        await world.commit(ALICE, {f"{EPRINT}/n{n}": long for n in many})
        await world.settle()
        await world.commit(ALICE, dict.fromkeys(f"{EPRINT}/n{n}" for n in many))
        assert await world.one("SELECT count(*) FROM eprint_search") > 0
    async with typed_world(tmp_path) as world:
        await world.commit(BOB, {f"{EPRINT}/n{n}": eprint("stork", "short") for n in many})
        with closing(sqlite3.connect(world.path)) as connection:
            assert not search_eprints(connection, "heron", SearchFilter(), limit=9)
            assert len(search_eprints(connection, "stork", SearchFilter(), limit=99)) == len(many)


SYNTAX = st.text(st.sampled_from('"*()^+-:{}~ \0\ud800éA中AND OR NOT NEAR')) | st.text(max_size=50)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    query=SYNTAX, author=st.none() | SYNTAX, field=st.none() | SYNTAX, licence=st.none() | SYNTAX
)
def test_no_query_is_an_error(reader, query, author, field, licence):
    wanted = SearchFilter(author=author, field=field, licence=licence)
    search_eprints(reader, query, wanted, limit=3)


def run(index: Path, *arguments: str) -> click.testing.Result:
    config = index.with_suffix(".toml")
    config.write_text(f"[storage]\npath = {json.dumps(str(index))}\n")
    runner = click.testing.CliRunner()
    return runner.invoke(commands, [*arguments, "--config", str(config)], standalone_mode=False)


def test_the_command_prints_results_that_steer_no_terminal(index):
    shown = run(index, "search", "danube")
    assert "Herons of the Danube" in shown.output
    assert "Émile Dûpont; 2024; CC-BY-4.0" in shown.output
    assert not set(shown.output) & {"\x1b", BEGIN_MARK, END_MARK}
    assert "Nothing was found." in run(index, "search", "nowhere").output


@pytest.mark.parametrize(
    "arguments",
    [("x\udcff",), ("--author", "\udcff"), ("--field", "\udcff"), ("--licence", "\udcff")],
)
def test_the_command_looks_for_nothing_that_is_no_text(index, capsys, arguments):
    run(index, "search", "danube")  # writes the settings
    with pytest.raises(SystemExit) as ended:
        main(["search", *arguments, "--config", str(index.with_suffix(".toml"))])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (os.EX_USAGE, "")
    assert err.startswith("chive-indexer: an argument is not UTF-8: ") and err.count("\n") == 1


def test_the_command_prints_json(index):
    shown = json.loads(run(index, "search", "herons", "--json").output)
    assert shown["query"] == "herons"
    [found] = shown["results"]
    assert found["title"] == "Herons of the Danube"
    assert found["matches"] == ["Herons", "herons"]
    assert found["uri"] == f"at://{ALICE}/{EPRINT}/3kherons22222"
