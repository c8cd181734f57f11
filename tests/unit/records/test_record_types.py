from __future__ import annotations

import json
import re

import pytest
from record_examples import (
    CID,
    DID,
    EPRINT_URI,
    GOVERNANCE_DID,
    OTHER_DID,
    RECORD_NSIDS,
    full,
    minimal,
    mutants,
    record_key,
    record_schema,
)

from indexer.derived import Mark
from indexer.records.prepare import assess_value
from indexer.records.projection import LABEL_MARK, SEARCH, SqlType
from indexer.records.registry import load_registry

REGISTRY = load_registry()
TYPES = REGISTRY.types
COMMON = {"createdAt", "schemaRevision"}


def assess(nsid, value, did=DID, rkey=None):
    return assess_value(did, f"{nsid}/{rkey or record_key(nsid)}", value, REGISTRY)


def row_of(nsid, value, did=DID):
    problem, projection = assess(nsid, value, did)
    assert problem is None
    return dict(zip((column.name for column in TYPES[nsid].columns), projection.row, strict=True))


def projected(nsid, value, did=DID):
    problem, projection = assess(nsid, value, did)
    assert problem is None
    return projection


@pytest.mark.parametrize("nsid", RECORD_NSIDS)
def test_full_and_minimal_examples_are_valid(nsid):
    for value in (full(nsid), minimal(nsid)):
        assert assess(nsid, value)[0] is None
        assert (assess(nsid, value)[1] is not None) == (nsid in TYPES)


@pytest.mark.parametrize("nsid", RECORD_NSIDS)
def test_every_constraint_of_the_document_is_enforced(nsid):
    count = 0
    for label, path, value in mutants(nsid):
        problem, projection = assess(nsid, value)
        assert problem is not None, (label, path)
        assert projection is None
        assert problem.startswith(str(path[0])), (label, path, problem)
        count += 1
    assert count > 2


@pytest.mark.parametrize("nsid", sorted(TYPES))
def test_no_field_of_the_lexicon_is_dropped(nsid):
    read = {field for column in TYPES[nsid].columns for field in column.fields}
    assert set(record_schema(nsid)["properties"]) - COMMON == read - COMMON


@pytest.mark.parametrize("nsid", sorted(TYPES))
def test_full_example_fills_every_column(nsid):
    empty = {name for name, value in row_of(nsid, full(nsid)).items() if value is None}
    allowed = {
        "actor_profile": {"created_at"},
        "discovery_settings": {"created_at"},
        "graph_node": {"visibility", "tags", "item_order"},
        "graph_edge": {"label", "collection_uri"},
        "eprint_submission": {"doi"},
    }
    assert empty == allowed.get(TYPES[nsid].table, set())


@pytest.mark.parametrize("nsid", sorted(TYPES))
def test_values_have_the_declared_sql_types(nsid):
    for value in (full(nsid), minimal(nsid)):
        projection = projected(nsid, value)
        for column, cell in zip(TYPES[nsid].columns, projection.row, strict=True):
            python_type = str if column.type is SqlType.TEXT else int
            assert cell is None or type(cell) is python_type, column.name
        for side in TYPES[nsid].side_tables:
            for row in projection.side_rows[side.name]:
                assert len(row) == len(side.columns)


@pytest.mark.parametrize("nsid", sorted(TYPES))
def test_column_names_are_plain_and_unique(nsid):
    kind = TYPES[nsid]
    names = [
        "rowid", "uri", "did", "rkey", "cid", "indexed_at",
        *(column.name for column in kind.columns),
        *(count.column for count in kind.counts),
        *(labels.column for labels in kind.labels),
        *([kind.did_column] if kind.did_column else []),
    ]  # fmt: skip
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


def test_tables_are_named_by_the_last_two_segments():
    assert TYPES["pub.chive.eprint.userTag"].table == "eprint_user_tag"
    assert TYPES["pub.chive.collaboration.inviteAcceptance"].table == (
        "collaboration_invite_acceptance"
    )
    tables = [kind.table for kind in TYPES.values()]
    sides = [side.name for kind in TYPES.values() for side in kind.side_tables]
    assert len({*tables, *sides, "mark", SEARCH.table}) == len(tables) + len(sides) + 2


def test_every_counted_mark_is_set_by_some_type():
    counted = {count.mark for kind in TYPES.values() for count in kind.counts}
    set_marks = {
        mark.name
        for nsid in TYPES
        for value in (full(nsid), full(nsid) | {"vote": "reject"})
        for mark in projected(nsid, value).marks
    }
    cited = full("pub.chive.eprint.citation")
    cited["citedWork"]["chiveUri"] = EPRINT_URI + "x"
    set_marks |= {mark.name for mark in projected("pub.chive.eprint.citation", cited).marks}
    assert counted <= set_marks


@pytest.mark.parametrize("nsid", TYPES)
def test_a_type_whose_texts_are_in_search_rows_of_others_says_so(nsid: str):
    """A rebuild copies it before them, and each row is written once."""
    names = {mark.name for mark in projected(nsid, full(nsid)).marks}
    held = {LABEL_MARK, *SEARCH.received.values()}
    assert TYPES[nsid].feeds_search is bool(names & held)


@pytest.mark.parametrize("nsid", [n for n in RECORD_NSIDS if record_key(n) == "self"])
def test_a_second_record_beside_a_literal_key_is_invalid(nsid):
    assert assess(nsid, full(nsid), rkey="other")[0] == "rkey: must be self"


@pytest.mark.parametrize("rkey", ["3kabcdefghi2b", "self", "no-tid", "3KABCDEFGHI2B"])
@pytest.mark.parametrize("nsid", [n for n in RECORD_NSIDS if record_key(n) != "self"])
def test_a_key_that_is_no_tid_is_the_authors_business(nsid, rkey):
    assert assess(nsid, full(nsid), rkey=rkey)[0] is None


@pytest.mark.parametrize("cites_itself", [True, False])
def test_a_work_that_cites_itself_is_not_counted_as_cited(cites_itself):
    nsid = "pub.chive.eprint.citation"
    value = full(nsid) | {"eprintUri": EPRINT_URI}
    value["citedWork"]["chiveUri"] = EPRINT_URI if cites_itself else EPRINT_URI + "x"
    found = {mark.subject for mark in projected(nsid, value).marks if mark.name == "cited_by"}
    assert found == (set() if cites_itself else {EPRINT_URI + "x"})


def test_unknown_values_of_open_enums_are_kept():
    value = full("pub.chive.graph.vote") | {"vote": "abstain"}
    assert row_of("pub.chive.graph.vote", value)["vote"] == "abstain"
    assert projected("pub.chive.graph.vote", value).marks == ()


def test_submission_columns_come_from_the_lexicon_fields():
    nsid = "pub.chive.eprint.submission"
    value = full(nsid) | {
        "versionNumber": 4,
        "publishedVersion": {"doi": "https://doi.org/10.1234/ABC.5"},
        "paperDid": DID,
        "fieldUris": [EPRINT_URI],
    }
    row = row_of(nsid, value)
    assert row["version"] == 4
    assert row["doi"] == "10.1234/abc.5"
    assert row["license"] == "CC-BY-4.0"
    assert row["document_blob_cid"] == CID
    assert row["document_blob_mime_type"] == "application/pdf"
    assert row["document_blob_size"] == 1000
    assert row["is_paper_account"] == 1
    assert row["needs_abstract_migration"] == 0
    assert row["publication_status"] == "eprint"
    assert json.loads(row["authors"]) == value["authors"]
    assert row_of(nsid, value, did=OTHER_DID)["is_paper_account"] == 0


@pytest.mark.parametrize(
    ("written", "doi"),
    [
        ("10.1016/0370-2693(91)90061-(A)", "10.1016/0370-2693(91)90061-(a)"),
        ("https://doi.org/10.1016/S0140-6736%2820%2930183-5", "10.1016/s0140-6736(20)30183-5"),
        ("(10.1234/abc.5).", "10.1234/abc.5"),
    ],
)
def test_the_doi_of_an_eprint_is_the_one_that_it_is_recognised_by(written, doi):
    nsid = "pub.chive.eprint.submission"
    value = full(nsid) | {"publishedVersion": {"doi": written}}
    assert row_of(nsid, value)["doi"] == doi
    assert (f"doi:{doi}",) in projected(nsid, value).side_rows["eprint_match_key"]


def test_submission_falls_back_where_the_lexicon_leaves_fields_open():
    nsid = "pub.chive.eprint.submission"
    value = minimal(nsid)
    value["document"] = {"cid": CID, "mimeType": "text/html"}
    row = row_of(nsid, value | {"version": {"major": 3, "minor": 0, "patch": 1}})
    assert row["document_format"] == "html"
    assert (row["document_blob_cid"], row["document_blob_size"]) == (CID, None)
    assert row["version"] == 3
    assert row["publication_status"] == "preprint"
    assert row_of(nsid, value)["version"] == 1


def test_bare_field_ids_and_the_shape_of_web_clients_become_uris():
    nsid = "pub.chive.eprint.submission"
    field = "0F1E2D3C-4b5a-6978-8796-a5b4c3d2e1f0"
    node = f"at://{GOVERNANCE_DID}/pub.chive.graph.node/{field.lower()}"
    value = minimal(nsid) | {"fieldNodes": [{"uri": field}, {"uri": EPRINT_URI}, {"weight": 1}]}
    assert projected(nsid, value).marks == (
        Mark("field", node, "000"),
        Mark("field", EPRINT_URI, "001"),
    )


def test_what_no_field_uri_could_be_is_no_field():
    nsid = "pub.chive.eprint.submission"
    value = minimal(nsid) | {"fieldNodes": [{"uri": {"a": 1}}, {"uri": None}, {"uri": "x"}]}
    assert projected(nsid, value).marks == ()
    many = minimal(nsid) | {"fieldNodes": [{"uri": f"{EPRINT_URI}{at}"} for at in range(50)]}
    assert len(projected(nsid, many).marks) == 10


def test_search_holds_all_authors_keywords_and_abstract_items():
    nsid = "pub.chive.eprint.submission"
    value = minimal(nsid) | {
        "title": "Über Bäume",
        "keywords": ["trees", "forests"],
        "authors": [{"name": "Ada", "order": 1}, {"name": "Émile", "order": 2}],
        "abstract": [
            {"$type": "pub.chive.richtext.defs#textItem", "type": "text", "content": "We plant "},
            {
                "$type": "pub.chive.richtext.defs#fieldRefItem",
                "type": "fieldRef",
                "uri": EPRINT_URI,
                "label": "Botany",
            },
        ],
    }
    search = projected(nsid, value).search
    assert dict(zip(SEARCH.own, search, strict=True)) == {
        "title": "Über Bäume",
        "abstract": "We plant Botany",
        "keywords": "trees\nforests",
        "authors": "Ada\nÉmile",
    }
    assert set(SEARCH.columns) == {*SEARCH.own, *SEARCH.labels, *SEARCH.received}


def test_comment_counts_on_its_eprint_and_on_its_parent():
    nsid = "pub.chive.review.comment"
    value = minimal(nsid) | {"parentComment": f"at://{DID}/{nsid}/3kparent22222"}
    assert set(projected(nsid, value).marks) == {
        Mark("reply", EPRINT_URI),
        Mark("reply", f"at://{DID}/{nsid}/3kparent22222"),
    }


def test_comment_keeps_facets_of_all_items_and_motivation():
    nsid = "pub.chive.annotation.comment"
    facet = {"index": {"byteStart": 0, "byteEnd": 1}, "features": []}
    item = {"$type": "pub.chive.richtext.defs#textItem", "type": "text", "content": "ab"}
    value = full(nsid) | {
        "body": [item | {"facets": [facet]}, item | {"facets": [facet]}],
        "motivationFallback": "questioning",
    }
    row = row_of(nsid, value)
    assert json.loads(row["facets"]) == [facet, facet]
    assert row["body_plain_text"] == "abab"
    assert row["motivation"] == row["motivation_fallback"] == "questioning"
    assert row["page_number"] == 0
    assert row_of(nsid, minimal(nsid))["motivation"] == "commenting"


def test_entity_label_is_found_for_every_kind_of_entity():
    nsid = "pub.chive.review.entityLink"
    kinds = {
        "#graphNodeLink": {"type": "graphNode", "uri": EPRINT_URI, "label": "N", "kind": "type"},
        "#externalIdLink": {"type": "externalId", "system": "ror", "identifier": "1", "label": "N"},
        "#authorLink": {"type": "author", "did": DID, "displayName": "N"},
        "#eprintLink": {"type": "eprint", "uri": EPRINT_URI, "title": "N"},
    }
    for name, entity in kinds.items():
        row = row_of(nsid, full(nsid) | {"linkedEntity": {"$type": nsid + name} | entity})
        assert row["entity_label"] == "N"
        assert row["entity_type"] == entity["type"]


def test_tags_are_read_in_both_forms_with_their_node():
    for nsid in ("pub.chive.eprint.userTag", "pub.chive.eprint.tag"):
        row = row_of(nsid, full(nsid) | {"tag": "Deep-Learning"})
        assert (row["tag"], row["normal_form"]) == ("Deep-Learning", "deep learning")
        assert row["node_uri"] == EPRINT_URI
        assert (
            Mark("tag", EPRINT_URI, "Deep-Learning")
            in projected(nsid, full(nsid) | {"tag": "Deep-Learning"}).marks
        )


def test_only_the_governance_account_is_an_authority():
    for nsid in ("pub.chive.graph.node", "pub.chive.graph.edge"):
        assert row_of(nsid, full(nsid))["authority"] == 0
        assert row_of(nsid, full(nsid), did=GOVERNANCE_DID)["authority"] == 1


def test_node_names_itself_and_nothing_else():
    nsid = "pub.chive.graph.node"
    marks = projected(nsid, full(nsid) | {"label": "Botany"}).marks
    assert marks == (Mark("label", f"at://{DID}/{nsid}/{record_key(nsid)}", "Botany"),)


@pytest.mark.parametrize(
    ("metadata", "visibility"),
    [
        ({"visibility": "public"}, "listed"),
        ({"visibility": "private"}, "unlisted"),
        ({}, "unlisted"),
    ],
)
def test_collection_visibility_reads_old_and_new_words(metadata, visibility):
    nsid = "pub.chive.graph.node"
    value = minimal(nsid) | {"subkind": "collection", "metadata": metadata}
    assert row_of(nsid, value)["visibility"] == visibility


def test_edge_names_the_collection_that_it_adds_to():
    nsid = "pub.chive.graph.edge"
    edge = full(nsid) | {"sourceUri": EPRINT_URI + "a", "targetUri": EPRINT_URI + "b"}
    for slug, uri in (
        ("contains", EPRINT_URI + "a"),
        ("subcollection-of", EPRINT_URI + "b"),
        ("cites", None),
    ):
        assert row_of(nsid, edge | {"relationSlug": slug})["collection_uri"] == uri


def test_profile_fields_are_all_there():
    row = row_of("pub.chive.actor.profile", full("pub.chive.actor.profile"))
    assert row["avatar_blob_cid"] == CID
    assert json.loads(row["field_ids"]) == [EPRINT_URI.rpartition("/")[2]]


def test_invite_tells_whose_record_it_is_about():
    row = row_of("pub.chive.collaboration.invite", full("pub.chive.collaboration.invite"))
    assert row["subject_author_did"] == OTHER_DID
    assert row["subject_collection"] == "pub.chive.eprint.submission"
    assert row["subject_uri"] == EPRINT_URI


def test_settings_show_the_defaults_of_the_lexicon():
    row = row_of("pub.chive.discovery.settings", minimal("pub.chive.discovery.settings"))
    schema = record_schema("pub.chive.discovery.settings")["properties"]
    columns = {
        column.fields[0]: row[column.name]
        for column in TYPES["pub.chive.discovery.settings"].columns
    }
    for name, inner in schema.items():
        if "default" in inner:
            assert columns[name] == inner["default"]
