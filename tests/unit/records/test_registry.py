from __future__ import annotations

import json
from pathlib import Path

import pytest
from record_examples import DID, DOCUMENTS, full

from indexer.errors import ConfigurationError
from indexer.records.prepare import assess_value
from indexer.records.registry import GOVERNANCE_DID, bundled_documents, load_registry

SHARED = Path(__file__).parents[4] / "shared"
PUBLISHED = sorted((SHARED / "lexicons").glob("*.json")) if SHARED.exists() else []
PROSE = {"description", "$type", "revision"}
METHODS = {
    *(f"pub.chive.admin.{name}" for name in (
        "triggerBackfill", "triggerPDSScan", "triggerFreshnessScan", "triggerCitationExtraction",
        "triggerFullReindex", "triggerGovernanceSync", "triggerDIDSync", "cancelBackfill",
        "getBackfillStatus", "getBackfillHistory", "getFirehoseStatus", "listDLQEntries",
        "retryDLQEntry", "retryAllDLQ", "dismissDLQEntry", "purgeOldDLQ", "listPDSes", "rescanPDS",
        "getSystemHealth", "getOverview", "getAuditLog",
    )),
    *(f"pub.chive.indexer.{name}" for name in (
        "pauseStream", "resumeStream", "resetCursor", "createBackup", "getRepoState", "listRepos",
        "listGaps", "deny", "allow", "listDenied",
    )),
    *(f"pub.chive.sync.{name}" for name in (
        "registerPDS", "indexRecord", "deleteRecord", "refreshRecord", "checkStaleness", "verify",
    )),
}  # fmt: skip


def test_every_typed_record_has_a_document_and_a_module():
    registry = load_registry()
    records = set(registry.catalog.record_nsids)
    assert set(registry.types) == {n for n in records if n.startswith("pub.chive.")}
    assert len(registry.types) == 24
    assert registry.governance_did == GOVERNANCE_DID


def test_bundled_documents_refer_to_nothing_that_is_missing():
    assert load_registry().catalog.missing_references == ()


def test_every_method_has_a_document():
    assert set(load_registry().catalog.methods) == METHODS


def test_documents_say_what_each_definition_is_for():
    for nsid, document in DOCUMENTS.items():
        for name, schema in document["defs"].items():
            assert len(schema.get("description", "")) > 8, (nsid, name)


def test_files_are_named_by_their_id():
    folder = Path(__file__).parents[3] / "indexer" / "lexicons"
    assert {file.stem for file in folder.glob("*.json")} == set(DOCUMENTS)
    assert len(bundled_documents()) == len(DOCUMENTS)


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_shapes_agree_with_the_published_documents(file):
    """Records exactly; answers of methods may have more fields, all of them optional."""
    published = json.loads(file.read_text())
    ours = DOCUMENTS[published["id"]]
    assert ours["revision"] == published["revision"]
    is_record = published["defs"].get("main", {}).get("type") not in ("query", "procedure")
    differences = list(_differences(published["defs"], ours["defs"], "", is_exact=is_record))
    assert differences == []


def test_a_published_input_has_no_field_that_we_lack():
    seed = SHARED / "seed" / "pub.chive.admin.triggerBackfill.json"
    if not seed.exists():
        pytest.skip("the seed is not at hand")
    published = json.loads(seed.read_text())
    ours = DOCUMENTS[published["id"]]
    assert list(_differences(published["defs"], ours["defs"], "", is_exact=False)) == []


def _differences(theirs, ours, path, *, is_exact):
    if isinstance(theirs, dict) and isinstance(ours, dict):
        is_names = path.endswith("/properties")
        skipped = set() if is_names else PROSE
        extra = set(ours) - set(theirs) - skipped
        if extra and (is_exact or not (is_names or path == "")):
            yield path, "we add", extra
        for name in set(theirs) - skipped:
            if name not in ours:
                yield path, "we lack", name
            else:
                yield from _differences(
                    theirs[name], ours[name], f"{path}/{name}", is_exact=is_exact
                )
    elif isinstance(theirs, list) and isinstance(ours, list):
        if sorted(map(str, theirs)) != sorted(map(str, ours)):
            yield path, theirs, ours
    elif path.endswith("/key"):
        if theirs.removeprefix("literal:") != ours.removeprefix("literal:"):
            yield path, theirs, ours
    elif theirs != ours:
        yield path, theirs, ours


def test_an_operators_document_validates_a_generic_collection(tmp_path):
    (tmp_path / "deep").mkdir()
    document = {
        "lexicon": 1,
        "id": "app.example.post",
        "defs": {
            "main": {
                "type": "record",
                "key": "tid",
                "record": {
                    "type": "object",
                    "required": ["text"],
                    "properties": {
                        "text": {"type": "string"},
                        "by": {"type": "ref", "ref": "app.example.gone"},
                    },
                },
            }
        },
    }
    (tmp_path / "deep" / "post.json").write_text(json.dumps(document))
    registry = load_registry(lexicon_dir=tmp_path)
    path = "app.example.post/3kabcdefghi2b"
    good = {"$type": "app.example.post", "text": "hi", "by": 5}
    assert assess_value(DID, path, good, registry) == (None, None)
    bad = {"$type": "app.example.post"}
    assert assess_value(DID, path, bad, registry) == ("text: is required", None)
    assert registry.catalog.missing_references == ("app.example.gone#main",)


def test_an_operators_document_replaces_a_bundled_one(tmp_path):
    nsid = "pub.chive.actor.mute"
    document = json.loads(json.dumps(DOCUMENTS[nsid]))
    document["defs"]["main"]["record"]["required"].append("reason")
    (tmp_path / "mute.json").write_text(json.dumps(document))
    registry = load_registry(lexicon_dir=tmp_path)
    problem, _ = assess_value(DID, f"{nsid}/3kabcdefghi2b", full(nsid), registry)
    assert problem == "reason: is required"


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"lexicon": 1}', "\ufeff{}", ""])
def test_an_unusable_lexicon_file_names_itself(tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"scope.lexicon_dir: .*/bad\.json"):
        load_registry(lexicon_dir=tmp_path)


def test_a_missing_lexicon_folder_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigurationError, match="nowhere"):
        load_registry(lexicon_dir=tmp_path / "nowhere")
