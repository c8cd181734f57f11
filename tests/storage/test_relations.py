"""Counts, collections and collaborations follow from what is there, in whatever order it came."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.records.projection import SEARCH
from indexer.records.types.graph_node import ORDERED_MAX
from storage.generations import current_generation
from storage.relation_views import ANCESTORS_MAX
from storage.search_rows import INLINE_ROWS
from storage.search_texts import RECEIVED_MAX, TextsOfOthers
from tests.storage.conftest import writer_steps
from tests.storage.typed_world import ALICE, BOB, CAROL, GOVERNANCE, TypedWorld, typed_world
from tests.unit.records.record_examples import CID, full, minimal

NODE, EDGE = "pub.chive.graph.node", "pub.chive.graph.edge"
INVITE, ACCEPTANCE = "pub.chive.collaboration.invite", "pub.chive.collaboration.inviteAcceptance"
EPRINT = "pub.chive.eprint.submission"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[TypedWorld]:
    async with typed_world(tmp_path) as opened:
        yield opened


def collection(label: str, **metadata: object) -> dict:
    return minimal(NODE) | {"subkind": "collection", "label": label, "metadata": metadata}


def edge(source: str, target: str, relation: str = "contains", at: int = 1) -> dict:
    return minimal(EDGE) | {
        "sourceUri": source,
        "targetUri": target,
        "relationSlug": relation,
        "createdAt": f"2026-03-01T12:00:{at:02}.000Z",
    }


def node_uri(did: str, rkey: str) -> str:
    return f"at://{did}/{NODE}/{rkey}"


def invite(subject: str, invitee: str, **fields: object) -> dict:
    return minimal(INVITE) | {"subject": {"uri": subject, "cid": CID}, "invitee": invitee} | fields


def acceptance(subject: str, invite_uri: str) -> dict:
    return minimal(ACCEPTANCE) | {
        "invite": {"uri": invite_uri, "cid": CID},
        "subject": {"uri": subject, "cid": CID},
    }


SHELF = node_uri(ALICE, "shelf")
PAPER = f"at://{BOB}/{EPRINT}/3kpaper222222"
INVITATION = f"at://{ALICE}/{INVITE}/3kinvite22222"
ACTS = {
    "shelf": (ALICE, f"{NODE}/shelf", collection("Shelf")),
    "item": (ALICE, f"{EDGE}/item", edge(SHELF, PAPER)),
    "foreign item": (BOB, f"{EDGE}/item", edge(SHELF, PAPER, at=2)),
    "invite": (ALICE, f"{INVITE}/3kinvite22222", invite(SHELF, BOB)),
    "acceptance": (BOB, f"{ACCEPTANCE}/3kaccept22222", acceptance(SHELF, INVITATION)),
}


@pytest.mark.parametrize("order", list(itertools.permutations(ACTS))[::7], ids=" ".join)
async def test_a_collaborators_items_count_whatever_came_first(world, order):
    for name in order:
        did, path, value = ACTS[name]
        await world.commit(did, {path: value})
    assert await world.rows("SELECT label, item_count FROM collections") == [("Shelf", 2)]
    assert await world.rows("SELECT did, state, role FROM collaborations") == [
        (BOB, "active", None)
    ]
    assert await world.one("SELECT count(*) FROM pending_collection_edges") == 0


async def test_what_a_stranger_adds_waits_until_the_owner_agrees(world):
    for name in ("shelf", "foreign item", "invite"):
        did, path, value = ACTS[name]
        await world.commit(did, {path: value})
    assert await world.rows("SELECT did FROM pending_collection_edges") == [(BOB,)]
    assert await world.one("SELECT state FROM collaborations") == "pending-acceptance"
    assert await world.one("SELECT item_count FROM collections") == 0
    did, path, value = ACTS["acceptance"]
    await world.commit(did, {path: value})
    assert await world.one("SELECT item_count FROM collections") == 1
    await world.commit(ALICE, {f"{INVITE}/3kinvite22222": None})
    assert await world.one("SELECT state FROM collaborations") == "pending-invite"
    assert await world.one("SELECT item_count FROM collections") == 0


async def test_nobody_invites_himself_into_anothers_collection(world):
    await world.commit(ALICE, {f"{NODE}/shelf": collection("Shelf")})
    own = f"at://{BOB}/{INVITE}/3kinvite22222"
    await world.commit(
        BOB,
        {
            f"{INVITE}/3kinvite22222": invite(SHELF, BOB),
            f"{ACCEPTANCE}/3kaccept22222": acceptance(SHELF, own),
            f"{EDGE}/item": edge(SHELF, PAPER),
        },
    )
    assert await world.one("SELECT state FROM collaborations") == "inactive"
    assert await world.one("SELECT item_count FROM collections") == 0


async def test_what_strangers_invite_and_accept_is_not_read_for_each_of_their_edges(world):
    await world.commit(ALICE, {f"{NODE}/shelf": collection("Shelf")})
    await world.commit(CAROL, {f"{EDGE}/e{n}": edge(SHELF, PAPER) for n in range(100)})

    def count(connection):
        return connection.execute("SELECT item_count FROM collections").fetchall()

    before = await writer_steps(world.database, world.database.write(count))
    own = [f"at://{CAROL}/{INVITE}/i{n}" for n in range(100)]
    await world.commit(CAROL, {uri.split("/", 3)[3]: invite(SHELF, CAROL) for uri in own})
    await world.commit(CAROL, {f"{ACCEPTANCE}/a{n}": acceptance(SHELF, own[0]) for n in range(100)})
    assert await writer_steps(world.database, world.database.write(count)) < 2 * before
    assert await world.one("SELECT item_count FROM collections") == 0
    await world.commit(ALICE, {f"{INVITE}/i0": invite(SHELF, CAROL)})
    assert await world.one("SELECT item_count FROM collections") == 0
    accepted = acceptance(SHELF, f"at://{ALICE}/{INVITE}/i0")
    await world.commit(CAROL, {f"{ACCEPTANCE}/accepted": accepted})
    assert await world.one("SELECT item_count FROM collections") == 100
    await world.set_account(ALICE, active=False)
    assert await world.one("SELECT sum(is_authorised) FROM collection_claims") == 0


async def test_what_somebody_invites_himself_to_is_not_read_for_each_of_his_acceptances(world):
    inviting = [f"at://{CAROL}/{INVITE}/i{n}" for n in range(100)]
    await world.commit(CAROL, {f"{ACCEPTANCE}/a{n}": acceptance(SHELF, PAPER) for n in range(100)})

    def collaborations(connection):
        sql = "SELECT did, state FROM collaborations WHERE subject_uri = ?"
        return connection.execute(sql, (SHELF,)).fetchall()

    before = await writer_steps(world.database, world.database.write(collaborations))
    await world.commit(CAROL, {uri.split("/", 3)[3]: invite(SHELF, CAROL) for uri in inviting})
    after = await writer_steps(world.database, world.database.write(collaborations))
    assert after < 4 * before
    assert await world.database.write(collaborations) == [(CAROL, "pending-invite")]
    await world.commit(CAROL, {f"{ACCEPTANCE}/a{n}": None for n in range(100)})
    await world.commit(CAROL, {f"{ACCEPTANCE}/own": acceptance(SHELF, inviting[0])})
    assert await world.database.write(collaborations) == [(CAROL, "inactive")]


async def test_only_the_invitee_accepts_an_invitation(world):
    for name in ("shelf", "foreign item", "invite"):
        did, path, value = ACTS[name]
        await world.commit(did, {path: value})
    await world.commit(CAROL, {f"{ACCEPTANCE}/3kaccept22222": acceptance(SHELF, INVITATION)})
    states = dict(await world.rows("SELECT did, state FROM collaborations"))
    assert states[BOB] == "pending-acceptance"
    assert states.get(CAROL) != "active"
    assert await world.one("SELECT item_count FROM collections") == 0


async def test_an_acceptance_counts_for_the_subject_that_it_names(world):
    other = node_uri(ALICE, "other")
    for name in ("shelf", "foreign item", "invite"):
        did, path, value = ACTS[name]
        await world.commit(did, {path: value})
    await world.commit(BOB, {f"{ACCEPTANCE}/3kaccept22222": acceptance(other, INVITATION)})
    found = await world.rows("SELECT subject_uri, state FROM collaborations ORDER BY subject_uri")
    assert found == [(other, "pending-invite"), (SHELF, "pending-acceptance")]
    assert await world.one("SELECT item_count FROM collections") == 0


async def test_strangers_edges_make_no_collection_deep(world):
    a, b = node_uri(ALICE, "a"), node_uri(ALICE, "b")
    shelves = {f"{NODE}/n{n}": collection(f"{n}") for n in range(ANCESTORS_MAX)}
    edges = {
        f"{EDGE}/n{n}": edge(a, node_uri(BOB, f"n{n}"), "subcollection-of", at=0)
        for n in range(ANCESTORS_MAX)
    }
    await world.fetch(BOB, shelves | edges)
    await world.commit(
        ALICE,
        {
            **{f"{NODE}/{rkey}": collection(rkey) for rkey in "ab"},
            f"{EDGE}/ba": edge(b, a, "subcollection-of"),
        },
    )
    assert await world.one("SELECT parent_uri FROM collections WHERE label = 'b'") == a


async def test_a_strangers_older_edge_closes_no_circle(world):
    a, b = node_uri(ALICE, "a"), node_uri(ALICE, "b")
    await world.commit(BOB, {f"{EDGE}/ba": edge(b, a, "subcollection-of", at=1)})
    await world.commit(
        ALICE,
        {
            **{f"{NODE}/{rkey}": collection(rkey) for rkey in "ab"},
            f"{EDGE}/ab": edge(a, b, "subcollection-of", at=2),
        },
    )
    assert await world.rows("SELECT did, rkey FROM collection_edges") == [(ALICE, "ab")]
    assert await world.rows("SELECT label, parent_uri FROM collections ORDER BY label") == [
        ("a", b), ("b", None),
    ]  # fmt: skip


async def test_the_label_of_a_hidden_accounts_node_is_not_shown(world):
    field = node_uri(CAROL, "field")
    await world.commit(CAROL, {f"{NODE}/field": minimal(NODE) | {"label": "Zoology"}})
    await world.commit(BOB, {f"{EPRINT}/3kpaper222222": minimal(EPRINT) | {"fieldUris": [field]}})
    shown = "SELECT fields FROM eprint_submission"
    for is_active, label in ((True, "Zoology"), (False, None), (True, "Zoology")):
        await world.set_account(CAROL, active=is_active)
        [found] = json.loads(await world.one(shown))
        assert found == {"uri": field, "label": label, "id": "field"}


async def test_a_vote_that_is_cast_twice_counts_once(world):
    kind, vote = "pub.chive.graph.nodeProposal", "pub.chive.graph.vote"
    proposal = f"at://{ALICE}/{kind}/3kproposal222"
    await world.commit(ALICE, {f"{kind}/3kproposal222": minimal(kind)})
    cast = minimal(vote) | {"proposalUri": proposal, "vote": "approve"}
    await world.commit(BOB, {f"{vote}/3kvote2222222": cast, f"{vote}/3kvote3333333": cast})
    await world.commit(CAROL, {f"{vote}/3kvote2222222": cast | {"vote": "reject"}})
    counts = "SELECT approve_count, reject_count FROM graph_node_proposal"
    assert await world.rows(counts) == [(1, 1)]
    await world.commit(BOB, {f"{vote}/3kvote2222222": None})
    assert await world.rows(counts) == [(1, 1)]
    await world.commit(BOB, {f"{vote}/3kvote3333333": None})
    assert await world.rows(counts) == [(0, 1)]


async def test_an_expired_invitation_admits_nobody(world):
    for name in ("shelf", "foreign item", "acceptance"):
        did, path, value = ACTS[name]
        await world.commit(did, {path: value})
    for expires, state in (
        ("2020-01-01T00:00:00Z", "inactive"),
        ("2999-01-01T00:00:00.123456+02:00", "active"),
        ("2016-12-31T23:59:60Z", "inactive"),
        ("2016-12-31T23:59:60.5Z", "inactive"),
        ("2999-12-31T23:59:60Z", "active"),
        ("2020-01-01T00:00:00+23:00", "inactive"),
        ("2999-01-01T00:00:00-23:59", "active"),
        ("0000-01-01T00:00:00Z", "inactive"),
        ("9999-12-31T23:59:59.999999999999Z", "active"),
        ("9999-12-31T23:59:59-15:00", "active"),
        ("2020-01-01T00:00:00.12345678901234567890Z", "inactive"),
    ):
        path = f"{INVITE}/3kinvite22222"
        await world.commit(ALICE, {path: invite(SHELF, BOB, expiresAt=expires)})
        assert await world.one("SELECT valid FROM records WHERE collection = ?", INVITE) == 1
        assert await world.rows(
            "SELECT state, (SELECT item_count FROM collections) FROM collaborations"
        ) == [(state, int(state == "active"))], expires
    await world.commit(ALICE, {path: invite(SHELF, BOB, expiresAt="2999-01-01")})
    assert await world.one("SELECT state FROM collaborations") == "pending-invite", "invalid"


async def test_the_submitter_of_a_papers_own_account_may_invite(world):
    paper = f"at://{CAROL}/{EPRINT}/3kpaper222222"
    value = minimal(EPRINT) | {"paperDid": CAROL, "submittedBy": ALICE}
    await world.commit(ALICE, {f"{INVITE}/3kinvite22222": invite(paper, BOB)})
    await world.commit(BOB, {f"{ACCEPTANCE}/3kaccept22222": acceptance(paper, INVITATION)})
    assert await world.one("SELECT state FROM collaborations") == "inactive"
    await world.commit(CAROL, {f"{EPRINT}/3kpaper222222": value})
    assert await world.one("SELECT state FROM collaborations") == "active"


async def test_an_edge_that_leaves_a_collection_leaves_its_items(world):
    await world.commit(ALICE, {f"{NODE}/shelf": collection("Shelf")})
    await world.commit(ALICE, {f"{EDGE}/item": edge(SHELF, PAPER)})
    assert await world.one("SELECT item_count FROM collections") == 1
    await world.commit(ALICE, {f"{EDGE}/item": edge(SHELF, PAPER, "related-to")})
    assert await world.one("SELECT item_count FROM collections") == 0
    await world.commit(ALICE, {f"{EDGE}/item": edge(SHELF, PAPER)})
    await world.commit(ALICE, {f"{EDGE}/item": None})
    assert await world.one("SELECT item_count FROM collections") == 0


async def test_the_order_of_items_overrides_their_weights(world):
    uris = [f"at://{ALICE}/{EDGE}/{rkey}" for rkey in ("b", "a")]
    await world.commit(
        ALICE,
        {
            f"{NODE}/shelf": collection("Shelf", itemOrder=uris),
            **{f"{EDGE}/{rkey}": edge(SHELF, PAPER) | {"weight": 500} for rkey in "abc"},
        },
    )
    found = await world.rows("SELECT rkey, weight FROM collection_edges ORDER BY rkey")
    assert found == [("a", 2), ("b", 1), ("c", 500)]


async def test_children_of_a_removed_collection_belong_to_what_held_it(world):
    a, b, c = (node_uri(ALICE, rkey) for rkey in "abc")
    await world.commit(ALICE, {f"{NODE}/{rkey}": collection(rkey) for rkey in "abc"})
    await world.commit(
        ALICE,
        {
            f"{EDGE}/cb": edge(c, b, "subcollection-of"),
            f"{EDGE}/ba": edge(b, a, "subcollection-of"),
        },
    )
    parents = "SELECT label, parent_uri FROM collections ORDER BY label"
    assert await world.rows(parents) == [("a", None), ("b", a), ("c", b)]
    await world.commit(ALICE, {f"{NODE}/b": None})
    assert await world.rows(parents) == [("a", None), ("c", a)]
    assert await world.one("SELECT count(*) FROM collection_edges") == 0
    await world.commit(ALICE, {f"{NODE}/a": None})
    assert await world.rows(parents) == [("c", None)]


async def test_nobody_else_says_where_a_collection_belongs(world):
    a, b, theirs = node_uri(ALICE, "a"), node_uri(ALICE, "b"), node_uri(BOB, "theirs")
    await world.commit(
        ALICE,
        {
            **{f"{NODE}/{rkey}": collection(rkey) for rkey in "ab"},
            f"{EDGE}/ba": edge(b, a, "subcollection-of"),
        },
    )
    await world.commit(
        BOB,
        {
            f"{NODE}/theirs": collection("theirs"),
            f"{EDGE}/b": edge(b, theirs, "subcollection-of", at=2),
            f"{EDGE}/a": edge(a, theirs, "subcollection-of", at=3),
        },
    )
    parents = "SELECT label, parent_uri FROM collections WHERE owner_did = ? ORDER BY label"
    waiting = "SELECT rkey FROM pending_collection_edges ORDER BY rkey"
    assert await world.rows(parents, ALICE) == [("a", None), ("b", a)]
    assert await world.rows(waiting) == [("a",), ("b",)]
    await world.commit(ALICE, {f"{INVITE}/3kinvite22222": invite(a, BOB)})
    await world.commit(BOB, {f"{ACCEPTANCE}/3kaccept22222": acceptance(a, INVITATION)})
    assert await world.rows(parents, ALICE) == [("a", theirs), ("b", a)]
    assert await world.rows(waiting) == [("b",)]
    await world.commit(ALICE, {f"{NODE}/a": None})
    assert await world.rows(parents, ALICE) == [("b", theirs)]


async def test_a_strangers_edges_do_not_hang_a_removed_collections_children_elsewhere(world):
    a, b, theirs = node_uri(ALICE, "a"), node_uri(ALICE, "b"), node_uri(BOB, "theirs")
    await world.commit(
        ALICE, {f"{NODE}/b": collection("b"), f"{EDGE}/ba": edge(b, a, "subcollection-of")}
    )
    await world.commit(
        BOB,
        {
            f"{NODE}/theirs": collection("theirs"),
            f"{EDGE}/a": edge(a, theirs, "subcollection-of", at=2),
        },
    )
    assert await world.one("SELECT parent_uri FROM collections WHERE uri = ?", b) is None


async def test_collections_nest_only_so_deep(world):
    uris = [node_uri(ALICE, f"n{depth:03}") for depth in range(ANCESTORS_MAX + 2)]
    nodes = {f"{NODE}/n{depth:03}": collection(str(depth)) for depth in range(len(uris))}
    edges = {
        f"{EDGE}/n{depth:03}": edge(uri, above, "subcollection-of", at=0)
        for depth, (above, uri) in enumerate(itertools.pairwise(uris), start=1)
    }
    await world.commit(ALICE, nodes | edges)
    placed = "SELECT count(parent_uri), max(uri) FILTER (WHERE parent_uri IS NOT NULL) FROM {}"
    found = await world.rows(placed.format("collections"))
    assert found == [(ANCESTORS_MAX - 1, uris[ANCESTORS_MAX - 1])]


async def test_collections_never_form_a_circle(world):
    a, b, c = (node_uri(ALICE, rkey) for rkey in "abc")
    await world.commit(
        ALICE,
        {
            **{f"{NODE}/{rkey}": collection(rkey) for rkey in "abc"},
            f"{EDGE}/self": edge(a, a, "subcollection-of", at=1),
            f"{EDGE}/ca": edge(c, a, "subcollection-of", at=9),
            f"{EDGE}/ab": edge(a, b, "subcollection-of", at=2),
            f"{EDGE}/bc": edge(b, c, "subcollection-of", at=3),
        },
    )
    found = await world.rows("SELECT rkey FROM collection_edges ORDER BY rkey")
    assert found == [("ab",), ("bc",)]


async def test_governance_rows_are_authority_and_no_personal_collection(world):
    for did in (GOVERNANCE, ALICE):
        await world.commit(did, {f"{NODE}/n": collection("N"), f"{EDGE}/e": minimal(EDGE)})
    for table in ("graph_node", "graph_edge"):
        found = dict(await world.rows(f"SELECT did, authority FROM {table}"))
        assert found == {GOVERNANCE: 1, ALICE: 0}
    assert await world.rows("SELECT did FROM collections") == [(ALICE,)]


async def test_counts_wait_for_the_parent_and_follow_deletions(world):
    eprint_path = PAPER.split("/", 3)[3]
    children = {
        f"{nsid}/3kchild222222": full(nsid) | {"eprintUri": PAPER}
        for nsid in (
            "pub.chive.review.comment", "pub.chive.review.endorsement",
            "pub.chive.eprint.citation", "pub.chive.eprint.userTag",
        )
    }  # fmt: skip
    await world.commit(ALICE, children)
    await world.commit(BOB, {eprint_path: minimal(EPRINT)})
    counts = (
        "SELECT reply_count, endorsement_count, citation_count, tag_count FROM eprint_submission"
    )
    assert await world.rows(counts) == [(1, 1, 1, 1)]
    await world.set_account(ALICE, active=False)
    assert await world.rows(counts) == [(0, 0, 0, 0)]
    await world.set_account(ALICE, active=True)
    assert await world.rows(counts) == [(1, 1, 1, 1)]
    await world.commit(ALICE, dict.fromkeys(children))
    assert await world.rows(counts) == [(0, 0, 0, 0)]


async def test_search_rows_and_foreign_texts_leave_and_return_with_their_account(world):
    eprint_path = PAPER.split("/", 3)[3]
    field = node_uri(CAROL, "field")
    await world.commit(
        BOB, {eprint_path: minimal(EPRINT) | {"title": "Herons", "fieldUris": [field]}}
    )
    await world.commit(
        ALICE,
        {"pub.chive.eprint.userTag/3ktag22222222":
         minimal("pub.chive.eprint.userTag") | {"eprintUri": PAPER, "tag": "birds"}},
    )  # fmt: skip
    await world.commit(CAROL, {f"{NODE}/field": minimal(NODE) | {"label": "Zoology"}})
    row = "SELECT title, fields, tags FROM eprint_search"
    assert await world.rows(row) == [("Herons", "Zoology", "birds")]
    for did, without in (
        (ALICE, [("Herons", "Zoology", "")]),
        (CAROL, [("Herons", "", "birds")]),
        (BOB, []),
    ):
        await world.set_account(did, active=False)
        await world.settle()
        assert await world.rows(row) == without
        await world.set_account(did, active=True)
        await world.settle()
        assert await world.rows(row) == [("Herons", "Zoology", "birds")]
    await world.purge(BOB)
    await world.settle()
    assert await world.rows(row) == []
    assert await world.one("SELECT count(*) FROM eprint_submission") == 0


async def test_records_written_while_hidden_are_searchable_only_afterwards(world):
    await world.commit(BOB, {f"{EPRINT}/3k22222222222": minimal(EPRINT) | {"title": "Herons"}})
    await world.set_account(BOB, active=False)
    storks = {f"{EPRINT}/3k33333333333": minimal(EPRINT) | {"title": "Storks"}}
    await world.fetch(BOB, storks, is_confirmed=False)
    assert await world.rows("SELECT title FROM eprint_search") == []
    await world.settle()
    assert await world.rows("SELECT title FROM eprint_search") == []
    await world.set_account(BOB, active=True)
    await world.settle()
    assert await world.rows("SELECT title FROM eprint_search") == [("Storks",)]


async def test_a_label_of_many_eprints_reaches_all_of_them_in_parts(world):
    field = node_uri(GOVERNANCE, "field")
    await world.commit(
        BOB,
        {f"{EPRINT}/3k{n:011}".replace("0", "2").replace("1", "a").replace("8", "b").replace("9", "c"):
         minimal(EPRINT) | {"fieldUris": [field]} for n in range(130)},
    )  # fmt: skip
    total = await world.one("SELECT count(*) FROM eprint_search")
    await world.commit(GOVERNANCE, {f"{NODE}/field": minimal(NODE) | {"label": "Zoology"}})
    first = await world.one(
        "SELECT count(*) FROM eprint_search WHERE eprint_search MATCH 'zoology'"
    )
    assert 0 < first < total
    await world.settle()
    assert total == await world.one(
        "SELECT count(*) FROM eprint_search WHERE eprint_search MATCH 'zoology'"
    )


async def test_field_labels_are_json_whatever_they_hold(world):
    label = "".join(map(chr, range(128))) + '"\\ü\U0001f680'
    await world.commit(CAROL, {f"{NODE}/a": minimal(NODE) | {"label": label}})
    uris = [node_uri(CAROL, "a"), node_uri(CAROL, "b")]
    await world.commit(BOB, {f"{EPRINT}/3k22222222222": minimal(EPRINT) | {"fieldUris": uris}})
    fields = await world.one("SELECT fields FROM eprint_submission")
    assert json.loads(fields) == [
        {"uri": uris[0], "label": label.replace("\0", " "), "id": "a"},
        {"uri": uris[1], "label": None, "id": "b"},
    ]
    assert " !" in fields, "what needs no escape is readable as it is"
    await world.commit(BOB, {f"{EPRINT}/3k22222222222": minimal(EPRINT)})
    assert await world.one("SELECT fields FROM eprint_submission") == "[]"


async def test_tags_beyond_the_bound_wait_until_others_are_gone(world):
    eprint_path = PAPER.split("/", 3)[3]
    tag = "pub.chive.eprint.userTag"
    await world.commit(BOB, {eprint_path: minimal(EPRINT)})
    paths = [f"{tag}/tag{n:05}" for n in range(RECEIVED_MAX + 1)]
    await world.fetch(
        ALICE,
        {path: minimal(tag) | {"eprintUri": PAPER, "tag": path[-5:]} for path in paths},
    )
    matching = "SELECT count(*) FROM eprint_search WHERE eprint_search MATCH ?"
    ids = dict(await world.rows("SELECT tag, rowid FROM eprint_user_tag"))
    first, last = min(ids, key=ids.get), max(ids, key=ids.get)
    assert (await world.one(matching, first), await world.one(matching, last)) == (1, 0)
    await world.commit(ALICE, {f"{tag}/tag{first}": None})
    assert (await world.one(matching, first), await world.one(matching, last)) == (0, 1)


async def test_tags_of_a_hidden_account_count_as_read(world):
    """They take as long to find: uncounted, a transaction would read those of all its eprints."""
    tag = "pub.chive.eprint.userTag"
    await world.commit(BOB, {PAPER.split("/", 3)[3]: minimal(EPRINT)})
    await world.commit(
        ALICE,
        {f"{tag}/t{n}": minimal(tag) | {"eprintUri": PAPER, "tag": "x"} for n in range(100)},
    )

    def received(connection):
        return TextsOfOthers(SEARCH, current_generation(connection)).received(connection, [PAPER])

    assert (await world.database.write(received))[0] == {"tag": {PAPER: "x"}}
    await world.set_account(ALICE, active=False)
    texts, chars = await world.database.write(received)
    assert texts == {"tag": {PAPER: ""}}
    assert chars >= 200


async def test_tags_on_many_eprints_reach_all_of_them_in_parts(world):
    tag, count = "pub.chive.eprint.userTag", 2 * INLINE_ROWS + 1
    rkeys = [f"n{n:03}" for n in range(count)]
    await world.fetch(BOB, {f"{EPRINT}/{rkey}": minimal(EPRINT) for rkey in rkeys})
    on = (f"at://{BOB}/{EPRINT}/{rkey}" for rkey in rkeys)
    tags = {
        f"{tag}/t{n}": minimal(tag) | {"eprintUri": uri, "tag": "birds"} for n, uri in enumerate(on)
    }
    await world.commit(ALICE, tags)
    tagged = "SELECT count(*) FROM eprint_search WHERE tags = 'birds'"
    assert await world.one(tagged) == INLINE_ROWS
    await world.settle()
    assert await world.one(tagged) == count
    await world.purge(ALICE)
    await world.settle()
    assert await world.one(tagged) == 0


async def test_labels_changed_together_reach_all_eprints_in_parts(world):
    """Each reaches few, but all of them in one transaction hold the writer for a second."""
    nodes = [f"{NODE}/n{n}" for n in range(4)]
    papers = {
        f"{EPRINT}/p{n}": minimal(EPRINT) | {"fieldUris": [f"at://{BOB}/{nodes[n % len(nodes)]}"]}
        for n in range(len(nodes) * (INLINE_ROWS - 1))
    }
    await world.commit(BOB, papers)
    labelled = {path: minimal(NODE) | {"label": "birds"} for path in nodes}
    await world.commit(BOB, labelled)
    found = "SELECT count(*) FROM eprint_search WHERE fields = 'birds'"
    assert await world.one(found) == INLINE_ROWS
    await world.settle()
    assert await world.one(found) == len(papers)


async def test_labels_that_no_eprint_bears_do_not_wait_for_room(world):
    """A vocabulary changes by hundreds of nodes at once, and all that waits holds up the queue."""
    popular = [f"{NODE}/n{n}" for n in range(2)]
    papers = {
        f"{EPRINT}/p{n}": minimal(EPRINT) | {"fieldUris": [f"at://{BOB}/{popular[n % 2]}"]}
        for n in range(4 * INLINE_ROWS)
    }
    await world.commit(BOB, papers)
    nodes = popular + [f"{NODE}/unused{n}" for n in range(50)]
    await world.commit(BOB, {path: minimal(NODE) | {"label": "birds"} for path in nodes})
    assert 0 < await world.one("SELECT count(*) FROM search_queue__1") <= len(popular)
    await world.settle()
    assert await world.one("SELECT count(*) FROM eprint_search WHERE fields = 'birds'") == len(
        papers
    )


async def test_a_hidden_account_leaves_search_while_a_popular_label_keeps_changing(world):
    node, papers = f"{NODE}/n", 4 * INLINE_ROWS
    on = {"fieldUris": [f"at://{BOB}/{node}"]}
    await world.commit(BOB, {f"{EPRINT}/p{n}": minimal(EPRINT) | on for n in range(papers)})
    await world.commit(ALICE, {f"{EPRINT}/hidden": minimal(EPRINT) | {"title": "secret"}})
    await world.set_account(ALICE, active=False)
    for label in ("birds", "stones", "bones"):
        await world.commit(BOB, {node: minimal(NODE) | {"label": label}})
        await world.upkeep.step()
    assert await world.one("SELECT count(*) FROM search_queue__1") == 1
    assert await world.one("SELECT count(*) FROM eprint_search WHERE title = 'secret'") == 0


async def test_what_an_order_is_too_long_for_comes_after_all_that_it_puts_in_order(world):
    uris = [f"at://{ALICE}/{EDGE}/e{n:04}" for n in range(ORDERED_MAX + 3)]
    await world.commit(ALICE, {f"{NODE}/shelf": collection("Shelf", itemOrder=uris)})
    wanted = {f"{EDGE}/e{n:04}": edge(SHELF, PAPER) for n in (0, ORDERED_MAX - 1, ORDERED_MAX + 2)}
    await world.commit(ALICE, wanted)
    found = await world.rows("SELECT rkey FROM collection_edges ORDER BY weight, created_at")
    assert [f"{EDGE}/{rkey}" for (rkey,) in found] == list(wanted)
