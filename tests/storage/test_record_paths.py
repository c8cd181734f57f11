"""Every record type, by every way in, ends in the same rows."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.records.registry import load_registry
from storage.export import PAGE_ROWS, exported_records
from storage.reading import open_reader
from tests.storage.typed_world import (
    ALICE,
    BOB,
    GOVERNANCE,
    REGISTRY,
    CrashPoint,
    Values,
    typed_world,
)
from tests.unit.records.record_examples import (
    DOCUMENTS,
    RECORD_NSIDS,
    full,
    minimal,
    mutants,
    record_key,
)

TYPED = sorted(REGISTRY.types)
FLOAT = b"\xa1\x61\x61\xfb\x3f\xf8\x00\x00\x00\x00\x00\x00"  # {"a": 1.5}
NESTED = b"\xa1\x61\x61" + b"\x81" * 40 + b"\x00"
HUGE_INT = b"\xa1\x61\x61\x1b\xff\xff\xff\xff\xff\xff\xff\xff"


def legacy_submission() -> dict:
    value = minimal("pub.chive.eprint.submission")
    del value["schemaRevision"], value["licenseSlug"], value["submittedBy"]
    value["authors"] = [{"name": "Ada", "affiliations": [{"name": "U", "department": "D"}]}]
    return value | {"abstract": "Old plain text.", "license": "MIT", "title": "On $x^2$"}


async def after(folder: Path, histories: Mapping[str, list[Values]], *, is_live: bool) -> dict:
    """All derived rows once every repo has gone through its states, or was fetched in the last."""
    folder.mkdir()
    async with typed_world(folder) as world:
        for did, steps in histories.items():
            if is_live:
                for step in steps:
                    await world.commit(did, step)
            else:
                state: dict = {}
                for step in steps:
                    state |= step
                await world.fetch(did, {k: v for k, v in state.items() if v is not None})
        await world.settle()
        letters = await world.rows(
            "SELECT reason, did, uri, message FROM dead_letters ORDER BY uri"
        )
        return await world.derived() | {"dead_letters": letters}


@pytest.mark.parametrize("nsid", RECORD_NSIDS)
async def test_a_type_ends_in_the_same_rows_live_and_fetched(nsid: str, tmp_path: Path):
    key = record_key(nsid)
    other = key if key == "self" else "3kother222222"
    path = f"{nsid}/{key}"
    histories = {
        "created full": [{path: full(nsid)}],
        "created minimal": [{path: minimal(nsid)}],
        "updated": [{path: minimal(nsid)}, {path: full(nsid)}],
        "updated back": [{path: full(nsid)}, {path: minimal(nsid)}],
        "deleted": [{path: full(nsid)}, {path: None}],
        "made again": [{path: full(nsid)}, {path: None}, {path: minimal(nsid)}],
        "beside another": [{path: full(nsid), f"{nsid}/{other}": minimal(nsid)}],
        "valid, then not": [{path: full(nsid)}, {path: {"$type": nsid, "schemaRevision": 0}}],
        "outside the data model, then valid": [{path: FLOAT}, {path: full(nsid)}],
    }
    by_did = {f"did:web:a{n}.test": steps for n, steps in enumerate(histories.values())}
    live = await after(tmp_path / "live", by_did, is_live=True)
    fetched = await after(tmp_path / "fetched", by_did, is_live=False)
    assert live == fetched
    rows = {uri: valid for uri, _, _, valid in live["records"]}
    kind = REGISTRY.types.get(nsid)
    if kind is not None:
        typed = {row[0] for row in live[kind.table]}
        assert typed == {uri for uri, valid in rows.items() if valid}
        assert len(typed) >= 7


@pytest.mark.parametrize("nsid", TYPED)
async def test_every_violation_is_kept_and_shown_nowhere(nsid: str, tmp_path: Path):
    """All mutants of the type at once: same verdicts live and fetched, no typed row at all."""
    bad = [value for _, _, value in mutants(nsid) if not _has_float(value)]
    path = f"{nsid}/{record_key(nsid)}"
    by_did = {f"did:web:a{n}.test": [{path: value}] for n, value in enumerate(bad)}
    by_did = dict(random.Random(nsid).sample(sorted(by_did.items()), min(len(by_did), 30)))
    live = await after(tmp_path / "live", by_did, is_live=True)
    assert live == await after(tmp_path / "fetched", by_did, is_live=False)
    assert [valid for *_, valid in live["records"]] == [0] * len(by_did)
    assert len(live["dead_letters"]) == len(by_did)
    assert all(reason == "record" for reason, *_ in live["dead_letters"])
    table = REGISTRY.types[nsid].table
    assert live[table] == [] and live["search"] == []


def _has_float(value: object) -> bool:
    return "1.5" in json.dumps(value)


async def test_what_breaks_the_data_model_has_its_row_and_its_reason(tmp_path: Path):
    blocks = {"3kfloat222222": FLOAT, "3knested22222": NESTED, "3kinteger2222": HUGE_INT}
    nsid = "pub.chive.eprint.userTag"
    async with typed_world(tmp_path) as world:
        await world.commit(ALICE, {f"{nsid}/{rkey}": block for rkey, block in blocks.items()})
        other_type = minimal("pub.chive.graph.vote")
        await world.commit(ALICE, {f"{nsid}/3kother222222": other_type})
        await world.commit(ALICE, {f"{nsid}/3kgood2222222": minimal(nsid)})
        found = await world.rows("SELECT rkey, value IS NULL, valid FROM records ORDER BY rkey")
        assert found == [
            ("3kfloat222222", 1, 0),
            ("3kgood2222222", 0, 1),
            ("3kinteger2222", 1, 0),
            ("3knested22222", 1, 0),
            ("3kother222222", 1, 0),
        ]
        letters = dict(await world.rows("SELECT substr(uri, -13), message FROM dead_letters"))
        assert letters.keys() == {rkey for rkey, _, valid in found if not valid}
        assert letters["3kother222222"] == f"$type: must be {nsid}"
        assert await world.one("SELECT state FROM accounts") == "active"


async def test_a_legacy_record_that_upgrades_cleanly_is_valid_and_stays_as_signed(tmp_path: Path):
    nsid = "pub.chive.eprint.submission"
    async with typed_world(tmp_path) as world:
        await world.commit(ALICE, {f"{nsid}/3k22222222222": legacy_submission()})
        assert await world.one("SELECT message FROM dead_letters UNION ALL SELECT 'none'") == "none"
        value, valid = (await world.rows("SELECT value, valid FROM records"))[0]
        assert valid == 1 and json.loads(value) == legacy_submission()
        row = await world.rows(
            "SELECT license, submitted_by, abstract_plain_text, needs_abstract_migration,"
            " json_extract(authors, '$[0].affiliations[0].children[0].name') FROM eprint_submission"
        )
        assert row == [("MIT", ALICE, "Old plain text.", 1, "D")]


async def test_equal_records_share_a_cid_and_live_and_die_apart(tmp_path: Path):
    nsid = "pub.chive.eprint.userTag"
    paths = [f"{nsid}/3ktag{n}2222222" for n in "ab"]
    eprint = f"at://{BOB}/pub.chive.eprint.submission/3keprint22222"
    tag = minimal(nsid) | {"eprintUri": eprint, "tag": "x"}
    async with typed_world(tmp_path) as world:
        await world.commit(BOB, {eprint.split("/", 3)[3]: minimal("pub.chive.eprint.submission")})
        await world.commit(ALICE, dict.fromkeys(paths, tag))
        assert await world.one("SELECT count(DISTINCT cid) FROM eprint_user_tag") == 1
        assert await world.one("SELECT tag_count FROM eprint_submission") == 2
        await world.commit(ALICE, {paths[0]: None})
        assert await world.rows("SELECT rkey FROM eprint_user_tag") == [("3ktagb2222222",)]
        assert await world.one("SELECT tag_count FROM eprint_submission") == 1
        assert await world.one("SELECT tags FROM eprint_search") == "x"


async def test_a_collection_without_any_code_is_kept_as_it_is(tmp_path: Path):
    values: dict = {
        "app.bsky.feed.post/3k22222222222": {"$type": "app.bsky.feed.post", "text": "hi"},
        "site.standard.document/3k22222222222": full("site.standard.document"),
        "site.standard.document/3k33333333333": {"$type": "site.standard.document"},
    }
    async with typed_world(tmp_path) as world:
        await world.commit(ALICE, values)
        found = await world.rows("SELECT collection, valid FROM records ORDER BY 1, 2 DESC")
        assert found == [
            ("app.bsky.feed.post", 1),
            ("site.standard.document", 1),
            ("site.standard.document", 0),
        ]


EPRINT, COMMENT, TAG, NODE, VOTE, PROPOSAL, EDGE = (
    f"pub.chive.{name}"
    for name in ("eprint.submission", "review.comment", "eprint.userTag", "graph.node",
                 "graph.vote", "graph.nodeProposal", "graph.edge")
)  # fmt: skip
A_URI, P_URI = f"at://{ALICE}/{EPRINT}/3kpaper222222", f"at://{BOB}/{PROPOSAL}/3kprop2222222"
FIELD, SHELF = f"at://{GOVERNANCE}/{NODE}/field", f"at://{ALICE}/{NODE}/shelf"
CHOICES: dict[tuple[str, str], list[dict | bytes | None]] = {
    (ALICE, f"{EPRINT}/3kpaper222222"): [
        minimal(EPRINT) | {"title": "One", "fieldUris": [FIELD]}, minimal(EPRINT), FLOAT, None,
    ],
    (GOVERNANCE, f"{NODE}/field"): [
        minimal(NODE) | {"label": "Zoology"}, minimal(NODE) | {"label": "Botany"}, None,
    ],
    (BOB, f"{TAG}/3ktag22222222"): [
        minimal(TAG) | {"eprintUri": A_URI, "tag": tag} for tag in ("old", "new")
    ] + [{"$type": TAG}, None],
    (BOB, f"{COMMENT}/3kcomment2222"): [minimal(COMMENT) | {"eprintUri": A_URI}, None],
    (GOVERNANCE, f"{COMMENT}/3kreply222222"): [
        minimal(COMMENT)
        | {"eprintUri": A_URI, "parentComment": f"at://{BOB}/{COMMENT}/3kcomment2222"}, None,
    ],
    (BOB, f"{PROPOSAL}/3kprop2222222"): [minimal(PROPOSAL), None],
    (ALICE, f"{VOTE}/3kvote2222222"): [
        minimal(VOTE) | {"proposalUri": P_URI, "vote": vote} for vote in ("approve", "reject")
    ] + [None],
    (ALICE, f"{NODE}/shelf"): [minimal(NODE) | {"subkind": "collection"}, minimal(NODE), None],
    (ALICE, f"{EDGE}/item"): [
        minimal(EDGE) | {"sourceUri": SHELF, "relationSlug": slug} for slug in ("contains", "cites")
    ] + [None],
}  # fmt: skip
EVENTS = st.lists(
    st.sampled_from(sorted(CHOICES)).flatmap(
        lambda place: st.tuples(st.just(place), st.sampled_from(range(len(CHOICES[place]))))
    ),
    max_size=14,
)


async def replay(folder: Path, events: list, *, crash_at: int | None = None) -> dict:
    """The derived rows after these events; a crash rolls back, and the event comes once more."""
    crash = CrashPoint("before-commit")
    async with typed_world(folder, reach=crash.reach) as world:
        for number, ((did, path), choice) in enumerate(events):
            value = CHOICES[did, path][choice]
            if did not in world.revs:
                await world.fetch(did, {})
            event = world.commit_event(did, {path: value})
            if number == crash_at:
                with crash.expected():
                    await world.apply(event)
            await world.apply(event)
        await world.settle()
        return await world.derived()


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(events=EVENTS, rng=st.randoms(use_true_random=False))
def test_any_order_and_any_crash_end_in_the_rows_of_a_rebuild(tmp_path_factory, events, rng):
    folders = (tmp_path_factory.mktemp("order") for _ in itertools.count())
    crash_at = rng.randrange(len(events)) if events else None
    reference = asyncio.run(replay(next(folders), events, crash_at=crash_at))
    # The order between places is free; at one place the last word counts.
    places = list(dict.fromkeys(place for place, _ in events))
    rng.shuffle(places)
    last = dict(events)
    reordered = [(place, last[place]) for place in places]
    assert asyncio.run(replay(next(folders), reordered)) == reference

    async def rebuilt() -> dict:
        folder = next(folders)
        await replay(folder, events)
        async with typed_world(folder) as world:
            await world.reindex(size=2)
            return await world.derived()

    assert asyncio.run(rebuilt()) == reference


async def test_export_writes_every_record_of_visible_accounts_page_by_page(tmp_path: Path):
    async with typed_world(tmp_path) as world:
        many = {f"app.any.thing/{n:05}": {"$type": "app.any.thing", "n": n}
                for n in range(PAGE_ROWS + 1)}  # fmt: skip
        await world.fetch(ALICE, many)
        await world.commit(
            BOB, {f"{TAG}/3kfloat222222": FLOAT, f"{TAG}/3ktag22222222": minimal(TAG)}
        )
        await world.commit(GOVERNANCE, {f"{NODE}/n": minimal(NODE)})
        await world.set_account(GOVERNANCE, active=False)
        with open_reader(world.path) as reader:
            found = list(exported_records(reader))
            shown = await world.rows("SELECT uri, cid, value, valid FROM records ORDER BY uri")
            assert len(shown) == len(many) + 2
            exported = [(each.uri, each.cid, each.value, each.is_valid) for each in found]
            assert sorted(exported) == shown
            assert {r.rkey: (r.is_valid, r.value is None) for r in exported_records(reader, did=BOB)} == {
                "3kfloat222222": (False, True), "3ktag22222222": (True, False),
            }  # fmt: skip
            assert len(list(exported_records(reader, collection="app.any.thing"))) == len(many)
            assert list(exported_records(reader, did=GOVERNANCE)) == []


async def test_a_rebuild_under_other_lexicons_judges_anew_and_says_so(tmp_path: Path):
    nsid = "pub.chive.actor.mute"
    folder = tmp_path / "lexicons"
    folder.mkdir()
    document = copy.deepcopy(DOCUMENTS[nsid])
    document["defs"]["main"]["record"]["required"].append("reason")
    (folder / "mute.json").write_text(json.dumps(document))
    stricter = load_registry(lexicon_dir=folder, governance_did=GOVERNANCE)
    letters = "SELECT uri, message FROM dead_letters"
    uri = f"at://{ALICE}/{nsid}/3k22222222222"
    async with typed_world(tmp_path) as world:
        await world.commit(ALICE, {f"{nsid}/3k22222222222": minimal(nsid)})
        assert await world.rows(letters) == []
    for registry, found in ((stricter, [(uri, "reason: is required")]), (REGISTRY, [])):
        async with typed_world(tmp_path, registry) as world:
            await world.reindex(registry.lexicon_id)
            assert await world.rows(letters) == found
            assert await world.one("SELECT valid FROM records") == int(not found)
            assert await world.one("SELECT count(*) FROM actor_mute") == int(not found)
