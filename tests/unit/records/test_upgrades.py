from __future__ import annotations

import copy
import json
import time

import pytest
from record_examples import CID, DID, GOVERNANCE_DID, full

from indexer.records.prepare import assess_value
from indexer.records.registry import load_registry

REGISTRY = load_registry()
SUBMISSION = "pub.chive.eprint.submission"
PROFILE = "pub.chive.actor.profile"


def legacy_submission(**fields):
    return {
        "$type": SUBMISSION,
        "title": "A study",
        "abstract": "Plain words",
        "document": {
            "$type": "blob",
            "ref": {"$link": CID},
            "mimeType": "application/pdf",
            "size": 10,
        },
        "authors": [
            {"name": "Ada", "affiliations": [{"name": "MIT", "department": "Physics"}]},
            {"name": "Grace"},
        ],
        "createdAt": "2025-01-01T00:00:00Z",
        **fields,
    }


def row_of(nsid, value):
    signed = copy.deepcopy(value)
    rkey = "self" if nsid == PROFILE else "3kabcdefghi2b"
    problem, projection = assess_value(DID, f"{nsid}/{rkey}", value, REGISTRY)
    assert problem is None
    assert value == signed, "the signed value must stay as it is"
    kind = REGISTRY.types[nsid]
    return dict(zip((column.name for column in kind.columns), projection.row, strict=True))


def test_first_revision_of_a_submission_becomes_valid():
    row = row_of(SUBMISSION, legacy_submission(license="CC-BY-SA-4.0"))
    assert row["abstract_plain_text"] == "Plain words"
    assert json.loads(row["abstract"])[0]["content"] == "Plain words"
    assert row["needs_abstract_migration"] == 1
    assert row["license"] == "CC-BY-SA-4.0"
    assert row["submitted_by"] == DID
    authors = json.loads(row["authors"])
    assert [author["order"] for author in authors] == [1, 2]
    assert authors[0]["affiliations"] == [{"name": "MIT", "children": [{"name": "Physics"}]}]


@pytest.mark.parametrize(
    ("written", "slug", "node"),
    [
        ("CC-BY-4.0", "CC-BY-4.0", "fc58b045-e186-5081-b7eb-abc5c47ea8a3"),
        ("cc0-1.0", "CC0-1.0", "509414c0-d77f-5053-a774-61fe1bf97dca"),
        (None, "CC-BY-4.0", "fc58b045-e186-5081-b7eb-abc5c47ea8a3"),
        ("WTFPL", "WTFPL", None),
    ],
)
def test_licence_of_a_legacy_submission(written, slug, node):
    row = row_of(SUBMISSION, legacy_submission(**({} if written is None else {"license": written})))
    uri = None if node is None else f"at://{GOVERNANCE_DID}/pub.chive.graph.node/{node}"
    assert (row["license"], row["license_uri"]) == (slug, uri)


@pytest.mark.parametrize(
    ("title", "items"),
    [
        ("On $x^2$ and", [("text", "On "), ("latex", "x^2", False), ("text", " and")]),
        ("$$E=mc^2$$", [("latex", "E=mc^2", True)]),
        (r"The \alpha particle", [("text", r"The \alpha particle")]),
        ("x_{ij} matters", [("text", "x_{ij} matters")]),
        ("Plain", None),
        ("Costs $5", None),
    ],
)
def test_latex_titles_are_split(title, items):
    rich = row_of(SUBMISSION, legacy_submission(title=title))["title_rich"]
    found = None if rich is None else json.loads(rich)
    expected = (
        None
        if items is None
        else [
            {
                "$type": f"pub.chive.richtext.defs#{kind}Item",
                "type": kind,
                "content": content,
                **({"displayMode": rest[0]} if rest else {}),
            }
            for kind, content, *rest in items
        ]
    )
    assert found == expected


def test_second_revision_gets_only_the_last_step():
    value = full(SUBMISSION) | {"schemaRevision": 2}
    value["authors"][0]["affiliations"] = [{"name": "MIT", "department": "Physics"}]
    authors = json.loads(row_of(SUBMISSION, value)["authors"])
    assert authors[0]["affiliations"][0]["children"] == [{"name": "Physics"}]


def test_current_revision_gets_no_fallbacks():
    for name in ("licenseSlug", "submittedBy"):
        value = full(SUBMISSION)
        del value[name]
        assert assess_value(DID, f"{SUBMISSION}/3kabcdefghi2b", value, REGISTRY) == (
            f"{name}: is required",
            None,
        )


@pytest.mark.parametrize("name", ["title", "document", "authors", "createdAt"])
def test_what_has_no_fallback_stays_invalid(name):
    value = legacy_submission()
    del value[name]
    problem, _ = assess_value(DID, f"{SUBMISSION}/3kabcdefghi2b", value, REGISTRY)
    assert problem == f"{name}: is required"


def test_upgrade_never_breaks_a_limit_of_its_own():
    row = row_of(SUBMISSION, legacy_submission(title="$a$b" * 60, abstract="ä" * 6000))
    assert row["title_rich"] is None
    assert row["abstract_plain_text"] == "ä" * 6000
    long = {"name": "Ada", "affiliations": [{"name": "MIT", "department": "ä" * 151}]}
    authors = json.loads(row_of(SUBMISSION, legacy_submission(authors=[long]))["authors"])
    assert authors[0]["affiliations"] == [{"name": "MIT"}]


LINK = {"$link": CID}


@pytest.mark.parametrize(
    "blob",
    [
        {"$type": "blob", "ref": LINK, "mimeType": "application/pdf", "size": 10},
        {"ref": LINK, "mimeType": "application/pdf", "size": 10},
        {"ref": CID, "mimeType": "application/pdf", "size": 10},
        {"cid": CID, "mimeType": "application/pdf"},
    ],
    ids=["today's", "without type", "bare reference", "legacy"],
)
def test_blobs_are_read_in_all_forms_that_legacy_records_have(blob):
    value = legacy_submission(
        document=blob, supplementaryMaterials=[{"label": "Data", "blob": blob}]
    )
    assert row_of(SUBMISSION, value)["document_blob_cid"] == CID


def test_blobs_of_the_current_revision_are_typed_or_of_the_legacy_form():
    current = full(SUBMISSION)
    for blob, problem in (
        ({"cid": CID, "mimeType": "application/pdf"}, None),
        ({"ref": LINK, "mimeType": "application/pdf", "size": 10}, "document: must be a blob"),
    ):
        path, value = f"{SUBMISSION}/3kabcdefghi2b", current | {"document": blob}
        assert assess_value(DID, path, value, REGISTRY)[0] == problem


def test_profile_departments_become_children():
    value = {
        "$type": PROFILE,
        "affiliations": [{"name": "MIT", "department": "Physics"}, {"name": "ETH"}],
        "previousAffiliations": [{"name": "CERN", "department": "Theory"}],
    }
    row = row_of(PROFILE, value)
    assert json.loads(row["affiliations"]) == [
        {"name": "MIT", "children": [{"name": "Physics"}]},
        {"name": "ETH"},
    ]
    assert json.loads(row["previous_affiliations"])[0]["children"] == [{"name": "Theory"}]


@pytest.mark.parametrize("value", [7, "x", [1], [{"affiliations": 5}], [[]], None, True])
@pytest.mark.parametrize(
    "name", ["abstract", "title", "authors", "document", "license", "supplementaryMaterials"]
)
def test_any_shape_of_a_legacy_field_is_judged_and_never_raises(name, value):
    legacy = legacy_submission(**{name: value})
    problem, projection = assess_value(DID, f"{SUBMISSION}/3kabcdefghi2b", legacy, REGISTRY)
    assert (problem is None) == (projection is not None)


@pytest.mark.parametrize("revision", [0, -1, 4, 10**12, "1", True, None, [], {}])
def test_unknown_revisions_are_left_to_the_lexicon(revision):
    value = full(SUBMISSION) | {"schemaRevision": revision}
    problem, _ = assess_value(DID, f"{SUBMISSION}/3kabcdefghi2b", value, REGISTRY)
    assert (problem is None) == (type(revision) is int and revision >= 1)


def test_a_title_beyond_the_limit_is_not_looked_at():
    """Whether it holds formulas would take the square of its length to see: minutes for 1 MB."""
    began = time.thread_time()
    problem, _ = assess_value(
        DID, f"{SUBMISSION}/3kabcdefghi2b", legacy_submission(title="_{" * 60_000), REGISTRY
    )
    assert problem is not None and "title" in problem
    assert time.thread_time() - began < 1.0
