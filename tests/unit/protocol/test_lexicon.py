from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import ConfigurationError
from indexer.protocol.graphemes import count_graphemes
from indexer.protocol.lexicon import InvalidLexicon, LexiconCatalog

INTEROP = Path(__file__).parents[4] / "shared" / "interop" / "lexicon"
CID = "bafkreiccldh766hwcnuxnf2wh6jgzepf2nlu2lvcllt63eww5p6chi4ity"
NSID = "com.example.thing"


def catalog_of(properties, *, required=(), nullable=(), others=None, more=()):
    schema = {
        "type": "object",
        "required": list(required),
        "nullable": list(nullable),
        "properties": properties,
    }
    document = {
        "lexicon": 1,
        "id": NSID,
        "defs": {"main": {"type": "record", "key": "tid", "record": schema}, **(others or {})},
    }
    return LexiconCatalog.from_documents([document, *more])


def verdict(properties, value, **options):
    return catalog_of(properties, **options).validate_record(NSID, {"$type": NSID, **value})


def judge(schema, value):
    return verdict({"x": schema}, {"x": value})


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "boolean"}, [True, False], [1, "true", None]),
        ({"type": "boolean", "const": True}, [True], [False]),
        ({"type": "integer"}, [0, -5, 2**53], [1.0, True, "1", None]),
        ({"type": "integer", "minimum": 1, "maximum": 3}, [1, 3], [0, 4]),
        ({"type": "integer", "enum": [1, 4]}, [4], [2]),
        ({"type": "integer", "const": 42}, [42], [41]),
        ({"type": "string"}, ["", "ä"], [1, None, [], "\ud800"]),
        ({"type": "string", "maxLength": 4}, ["abcd", "ää"], ["abcde", "äää", "\ud800"]),
        ({"type": "string", "minLength": 2}, ["ab", "ä"], ["a", ""]),
        ({"type": "string", "maxGraphemes": 2}, ["ab", "👩‍👩‍👧‍👦🇩🇪", "e\u0301e\u0301"], ["abc", "äöü"]),
        ({"type": "string", "minGraphemes": 2}, ["ab"], ["a", "👩‍👩‍👧‍👦", ""]),
        ({"type": "string", "enum": ["a", "b"]}, ["a"], ["c"]),
        ({"type": "string", "const": "a"}, ["a"], ["b"]),
        ({"type": "string", "knownValues": ["a"]}, ["a", "other"], [1]),
        ({"type": "string", "format": "did"}, ["did:web:x.org"], ["did:", "x"]),
        ({"type": "string", "format": "datetime"}, ["2026-01-01T00:00:00Z"], ["2026-01-01", ""]),
        ({"type": "string", "format": "of-the-future"}, ["anything"], [1]),
        ({"type": "bytes", "minLength": 1, "maxLength": 2}, [{"$bytes": "AQ"}, {"$bytes": "AQI="}],
         [{"$bytes": "AQID"}, {"$bytes": ""}, {"$bytes": "?"}, {"$bytes": 1}, "AQ", {}]),
        ({"type": "cid-link"}, [{"$link": CID}], [CID, {"$link": "x"}, {"$link": CID, "a": 1}]),
        ({"type": "unknown"}, [{}, {"a": 1}], [[], 1, {"$link": CID}, {"$bytes": "AQ"},
                                              {"$type": "blob", "size": 1}]),
        ({"type": "null"}, [None], [0]),
        ({"type": "array", "items": {"type": "integer"}}, [[], [1]], [["a"], {}, [1, None]]),
        ({"type": "array", "items": {"type": "integer"}, "minLength": 1, "maxLength": 2},
         [[1], [1, 2]], [[], [1, 2, 3]]),
        ({"type": "object", "properties": {}}, [{}, {"more": 1}], [[], {"$link": CID}]),
        ({"type": "ref", "ref": "com.example.absent"}, [1, None, {}], []),
        ({"type": "blob"}, [{"cid": CID, "mimeType": "a/b"}],
         [{"cid": "?", "mimeType": "a/b"}, {"cid": CID}, {"cid": CID, "mimeType": ""}]),
    ],
)  # fmt: skip
def test_each_type_accepts_and_refuses(schema, good, bad):
    for value in good:
        assert judge(schema, value) is None
    for value in bad:
        problem = judge(schema, value)
        assert problem is not None
        assert problem.startswith("x")


BLOB = {"$type": "blob", "ref": {"$link": CID}, "mimeType": "image/png", "size": 10}


@pytest.mark.parametrize(
    ("constraints", "change", "is_valid"),
    [
        ({}, {}, True),
        ({"accept": ["image/*"]}, {}, True),
        ({"accept": ["*/*"]}, {}, True),
        ({"accept": ["image/png"]}, {}, True),
        ({"accept": ["video/*", "image/jpeg"]}, {}, False),
        ({"accept": []}, {}, True),
        ({"maxSize": 10}, {}, True),
        ({"maxSize": 9}, {}, False),
        ({}, {"size": -1}, False),
        ({}, {"size": "10"}, False),
        ({}, {"ref": CID}, False),
        ({}, {"mimeType": 5}, False),
        ({}, {"$type": "bolb"}, False),
    ],
)
def test_blobs(constraints, change, is_valid):
    assert (judge({"type": "blob", **constraints}, BLOB | change) is None) == is_valid


def test_the_first_violation_is_told_with_its_path():
    people = {"type": "array", "items": {"type": "ref", "ref": "#person"}}
    person = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string", "maxLength": 3}},
    }
    value = {"people": [{"name": "Ada"}, {"name": "Grace"}, {}]}
    problem = verdict({"people": people}, value, others={"person": person})
    assert problem == "people[1].name: has 5 bytes, at most 3 are allowed"
    assert catalog_of({}).validate_record(NSID, []) == "value: must be an object"
    assert catalog_of({}).validate_record(NSID, {}) == f"$type: must be {NSID}"
    assert verdict({}, {}, required=["a"]) == "a: is required"


def test_nullable_fields_may_be_null_and_others_may_not():
    properties = {"a": {"type": "integer"}, "b": {"type": "integer"}}
    assert verdict(properties, {"a": None}, nullable=["a"]) is None
    assert verdict(properties, {"b": None}, nullable=["a"]) == "b: must be an integer"


def test_definitions_may_refer_to_themselves():
    tree = {
        "type": "object",
        "properties": {"next": {"type": "ref", "ref": "#tree"}, "n": {"type": "integer"}},
    }
    properties = {"tree": {"type": "ref", "ref": "#tree"}}
    good, bad = {"n": 1}, {"n": "x"}
    for _ in range(20):
        good, bad = {"next": good}, {"next": bad}
    assert verdict(properties, {"tree": good}, others={"tree": tree}) is None
    problem = verdict(properties, {"tree": bad}, others={"tree": tree})
    assert problem == "tree" + ".next" * 20 + ".n: must be an integer"


UNION_OTHERS = {
    "a": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}},
    "link": {
        "type": "object",
        "required": ["$type"],
        "properties": {
            "$type": {"type": "string", "const": "app.other#link"},
            "u": {"type": "integer"},
        },
    },
}


@pytest.mark.parametrize(
    ("is_closed", "value", "is_valid"),
    [
        (False, {"$type": f"{NSID}#a", "n": 1}, True),
        (False, {"$type": f"{NSID}#a"}, False),
        (False, {"$type": "com.example.new#thing"}, True),
        (True, {"$type": "com.example.new#thing"}, False),
        (False, {"n": 1}, False),
        (False, {"$type": ""}, False),
        (False, {"$type": 5}, False),
        (False, "text", False),
        (False, {"$type": "app.other#link", "u": 1}, True),
        (False, {"$type": f"{NSID}#link", "u": 1}, True),
        (False, {"$type": "app.other#link", "u": "x"}, False),
        (False, {"$type": f"{NSID}#link", "u": "x"}, False),
        (True, {"$type": "app.other#link", "u": 1}, True),
    ],
)
def test_unions_are_open_and_know_both_names_of_a_member(is_closed, value, is_valid):
    union = {"type": "union", "refs": ["#a", "#link"], "closed": is_closed}
    problem = verdict({"x": union}, {"x": value}, others=UNION_OTHERS)
    assert (problem is None) == is_valid


def test_main_definitions_are_known_with_and_without_fragment():
    other = {
        "lexicon": 1,
        "id": "com.example.other",
        "defs": {"main": {"type": "object", "required": ["n"], "properties": {}}},
    }
    union = {"type": "union", "refs": ["com.example.other"]}
    for name in ("com.example.other", "com.example.other#main"):
        assert verdict({"x": union}, {"x": {"$type": name}}, more=[other]) == "x.n: is required"


def test_missing_references_are_told():
    catalog = catalog_of({"x": {"type": "union", "refs": ["com.example.gone#a", "#b"]}})
    assert catalog.missing_references == ("com.example.gone#a", f"{NSID}#b")


def test_types_without_a_document_accept_everything():
    catalog = catalog_of({})
    assert catalog.validate_record("com.example.unknown", {"$type": "com.example.unknown"}) is None
    assert catalog.record_key("com.example.unknown") is None
    assert catalog.record_key(NSID) == "tid"
    assert catalog.record_nsids == (NSID,)


METHOD = {
    "lexicon": 1,
    "id": "com.example.call",
    "defs": {
        "main": {
            "type": "procedure",
            "parameters": {
                "type": "params",
                "required": ["did"],
                "properties": {
                    "did": {"type": "string", "format": "did"},
                    "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 50},
                    "deep": {"type": "boolean"},
                    "ids": {"type": "array", "items": {"type": "integer"}, "maxLength": 2},
                },
            },
            "input": {
                "encoding": "application/json",
                "schema": {
                    "type": "object",
                    "required": ["a"],
                    "properties": {"a": {"type": "integer"}},
                },
            },
            "output": {"encoding": "application/json", "schema": {"type": "ref", "ref": "#answer"}},
            "errors": [{"name": "Nope"}],
        },
        "answer": {"type": "object", "required": ["b"], "properties": {}},
    },
}


def test_methods_validate_what_goes_in_and_out():
    catalog = LexiconCatalog.from_documents([METHOD])
    method = catalog.methods["com.example.call"]
    assert (method.type, method.errors) == ("procedure", ("Nope",))
    assert (method.input_encoding, method.output_encoding) == ("application/json",) * 2
    assert catalog.validate_input("com.example.call", {"a": 1}) is None
    assert catalog.validate_input("com.example.call", {"a": "1"}) == "a: must be an integer"
    assert catalog.validate_input("com.example.call", []) == "value: must be an object"
    assert catalog.validate_output("com.example.call", {}) == "b: is required"
    assert catalog.validate_params("com.example.call", {"did": "x"}) == "did: is not a valid did"
    assert catalog.validate_output("com.example.unknown", {}) is None


@pytest.mark.parametrize(
    ("query", "params", "problem"),
    [
        ([], {"limit": 50}, "did: is required"),
        ([("did", "did:web:a.b")], {"did": "did:web:a.b", "limit": 50}, None),
        ([("did", "did:web:a.b"), ("limit", "7"), ("deep", "true"), ("ids", "1"), ("ids", "-2")],
         {"did": "did:web:a.b", "limit": 7, "deep": True, "ids": [1, -2]}, None),
        ([("did", "did:web:a.b"), ("other", "1")], {"did": "did:web:a.b", "limit": 50}, None),
        ([("did", "did:web:a.b"), ("did", "did:web:a.b")], {"did": "did:web:a.b"}, "did: is given twice"),
        ([("did", "did:web:a.b"), ("deep", "yes")],
         {"did": "did:web:a.b", "deep": "yes", "limit": 50}, "deep: must be a boolean"),
        *[
            ([("did", "did:web:a.b"), ("limit", text)],
             {"did": "did:web:a.b", "limit": text}, "limit: must be an integer")
            for text in ("1e3", "", "-", "--1", "+1", " 1", "1.0", "9" * 30, "٣")
        ],
        ([("did", "did:web:a.b"), ("limit", "101")],
         {"did": "did:web:a.b", "limit": 101}, "limit: must be at most 100"),
        ([("did", "did:web:a.b"), ("ids", "1"), ("ids", "2"), ("ids", "3")],
         {"did": "did:web:a.b", "ids": [1, 2, 3], "limit": 50},
         "ids: has 3 items, at most 2 are allowed"),
    ],
)  # fmt: skip
def test_query_strings_are_read_by_declared_types(query, params, problem):
    catalog = LexiconCatalog.from_documents([METHOD])
    assert catalog.read_params("com.example.call", query) == (params, problem)


def definition(schema):
    return {"lexicon": 1, "id": NSID, "defs": {"x": schema}}


def deep(levels):
    schema = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"lexicon": 1, "id": NSID},
        {"lexicon": 1, "id": NSID, "defs": {}},
        {"lexicon": 1, "id": NSID, "defs": []},
        {"lexicon": True, "id": NSID, "defs": {"x": {"type": "integer"}}},
        {"lexicon": 2, "id": NSID, "defs": {"x": {"type": "integer"}}},
        definition(5),
        definition({"type": "strnig"}),
        definition({"type": ["string"]}),
        definition({"type": "array"}),
        definition({"type": "array", "items": {"type": "ref"}}),
        definition({"type": "object", "properties": {"a": {"type": "union", "refs": [1]}}}),
        definition({"type": "object", "properties": []}),
        definition({"type": "object", "required": "a"}),
        definition({"type": "object", "nullable": [1]}),
        definition({"type": "string", "maxLength": "5"}),
        definition({"type": "string", "enum": [[]]}),
        definition({"type": "string", "const": {}}),
        definition({"type": "blob", "accept": "image/png"}),
        definition(deep(40)),
        {"lexicon": 1, "id": NSID, "defs": {"main": {"type": "record", "record": {"type": "object"}}}},
        {"lexicon": 1, "id": NSID, "defs": {"main": {"type": "query", "parameters": {"type": "object"}}}},
        {"lexicon": 1, "id": NSID, "defs": {"main": {"type": "query", "output": {"schema": {"type": "x"}}}}},
        {"lexicon": 1, "id": NSID, "defs": {"main": {"type": "query", "parameters": {
            "type": "params", "properties": {"a": {"type": "array"}}}}}},
    ],
)  # fmt: skip
def test_malformed_documents_are_refused_as_configuration(document):
    with pytest.raises(InvalidLexicon) as caught:
        LexiconCatalog.from_documents([document])
    assert isinstance(caught.value, ConfigurationError)


def test_the_later_document_of_an_id_counts():
    first = definition({"type": "string"})
    first["defs"]["main"] = {
        "type": "record",
        "key": "tid",
        "record": {"type": "object", "required": ["a"]},
    }
    second = {
        **first,
        "defs": {"main": {"type": "record", "key": "any", "record": {"type": "object"}}},
    }
    catalog = LexiconCatalog.from_documents([first, second])
    assert catalog.validate_record(NSID, {"$type": NSID}) is None
    assert catalog.record_key(NSID) == "any"


def interop(name):
    path = INTEROP / name
    return json.loads(path.read_text()) if path.exists() else []


@pytest.mark.skipif(not INTEROP.exists(), reason="interop vectors are not at hand")
def test_interop_documents_are_judged_alike():
    documents = [json.loads(p.read_text()) for p in sorted((INTEROP / "catalog").glob("*.json"))]
    assert len(documents) >= 5
    catalog = LexiconCatalog.from_documents(documents)
    assert catalog.record_key("example.lexicon.record") == "literal:demo"
    valid, invalid = interop("lexicon-valid.json"), interop("lexicon-invalid.json")
    assert valid
    assert invalid
    for case in valid:
        LexiconCatalog.from_documents([case["lexicon"]])
    for case in invalid:
        with pytest.raises(InvalidLexicon):
            LexiconCatalog.from_documents([case["lexicon"]])


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0), ("abc", 3), ("e\u0301", 1), ("👩‍👩‍👧‍👦", 1), ("🇩🇪🇫🇷", 2), ("👍🏽", 1), ("한국어", 3),
        ("\u1112\u1161\u11ab", 1), ("\r\n", 1), ("\n\u0301", 2), ("नि", 1), ("❤️", 1), ("ab\u200dcd", 4),
        ("🇩🇪🇫", 2), ("🏴\U000e0067\U000e0062\U000e007f", 1),
    ],
)  # fmt: skip
def test_graphemes_are_what_readers_count(text, count):
    assert count_graphemes(text) == count


@given(st.text(max_size=50))
def test_graphemes_are_never_more_than_code_points(text):
    assert count_graphemes(text) <= len(text)
    assert bool(text) == bool(count_graphemes(text))
