"""Record blocks with their lexicons, and what admins send: bodies and query strings."""

from __future__ import annotations

import json
from random import Random
from types import ModuleType
from urllib.parse import parse_qsl, quote

from admin_api import json_body
from admin_api.json_body import read_json
from indexer.errors import RequestRefused
from indexer.protocol import cbor, lexicon, lexicon_checks, syntax
from indexer.protocol.cbor import json_to_dag_cbor
from indexer.records import prepare, projection, upgrades
from indexer.records.prepare import prepare_record, prepare_stored
from indexer.records.registry import bundled_documents, load_registry
from tests.devnet.cbor import JsonValue, encode, from_json
from tests.devnet.records import (
    COLLECTIONS,
    FOREIGN,
    SINGLETONS,
    realistic_record,
    unreadable_blocks,
)
from tests.fuzz.documents import RAW
from tests.fuzz.frames import check_value
from tests.fuzz.mutation import INTEGERS, TEXTS, havoc, loosely_encoded, mangled
from tests.unit.records.record_examples import RECORD_NSIDS, full

DID = "did:plc:abcdefghijklmnopqrstuvwx"
ALL = (*COLLECTIONS, *sorted(SINGLETONS), FOREIGN)


class Records:
    """Whatever a block holds, it becomes a row; a value that is kept is exactly the block's."""

    name = "records"
    modules: tuple[ModuleType, ...] = (cbor, lexicon, lexicon_checks, prepare, projection, syntax, upgrades)  # fmt: skip

    def __init__(self, seed: int) -> None:
        rng = Random(f"records {seed}")
        self._registry = load_registry()
        self._values = {name: [from_json(realistic_record(rng, name, did=DID)) for _ in range(20)] for name in ALL}  # fmt: skip
        for name in sorted(
            {*RECORD_NSIDS} & {*ALL}
        ):  # with every field, also those that few records have
            self._values[name] += [from_json(full(name))] * 5
        self._unreadable = [block for name in ALL for block in unreadable_blocks(name).values()]

    def make(self, rng: Random) -> bytes:
        """The path, a line end, and the block."""
        name = rng.choice(ALL)
        value = rng.choice(self._values[name])
        if isinstance(value, dict) and rng.random() < 0.1:  # as of the first revision
            value = {key: each for key, each in value.items() if key != "schemaRevision"}
        for _ in range(rng.choice((0, 1, 1, 2, 4))):
            value = mangled(rng, value)
        way = rng.random()
        if way < 0.02:
            block = rng.choice(self._unreadable)
        elif way < 0.7:
            block = encode(value) if way < 0.5 else loosely_encoded(rng, value, 0.02)
        else:
            block = havoc(rng, encode(value))
        rkey = "self" if name in SINGLETONS or way > 0.98 else "3kaaaaaaaaaa2"
        return f"{name}/{rkey}".encode() + b"\n" + block

    def check(self, data: bytes) -> str:
        """Live, and again as a rebuild would read the row."""
        head, _, block = data.partition(b"\n")
        path = head.decode("latin-1")
        made = prepare_record(DID, path, "b", block, self._registry)
        if made.value is None:
            assert made.problem
            return "refused by the data model"
        check_value(made.value, block)
        assert json_to_dag_cbor(made.value) == block
        assert prepare_stored(DID, path, "b", made.value, self._registry) == made
        return "accepted" if made.problem is None else "refused by the lexicon"


class Requests:
    """Bodies and query strings of all methods; the long way over HTTP is `tests/e2e/test_admin_fuzz.py`."""

    name = "bodies"
    modules = (json_body, lexicon, lexicon_checks)

    def __init__(self, seed: int) -> None:
        del seed
        self._catalog = load_registry().catalog
        self._mains = {
            document["id"]: document["defs"]["main"]
            for document in bundled_documents()
            if isinstance(document, dict) and document["defs"].get("main", {}).get("type") in ("query", "procedure")
        }  # fmt: skip

    def make(self, rng: Random) -> bytes:
        """The method, a line end, and a body or, after `?`, a query string."""
        nsid = rng.choice(list(self._mains))
        main = self._mains[nsid]
        if main["type"] == "query":
            declared = main.get("parameters", {}).get("properties", {})
            pairs = [f"{name}={quote(_text(rng, each))}" for name, each in declared.items() for _ in range(rng.choice((0, 1, 1, 2)))]  # fmt: skip
            query = "&".join(pairs).encode()
            return nsid.encode() + b"\n?" + (havoc(rng, query) if rng.random() < 0.3 else query)
        schema = main.get("input", {}).get("schema", {}).get("properties", {})
        value: JsonValue = {name: _value(rng, each) for name, each in schema.items() if rng.random() < 0.8}  # fmt: skip
        if rng.random() < 0.4:
            value = mangled(rng, value)  # type: ignore[assignment, arg-type]
        data = json.dumps(value, default=lambda odd: getattr(odd, "cid", odd).hex()).encode()
        way = rng.random()
        data = rng.choice(RAW) if way < 0.02 else havoc(rng, data) if way < 0.3 else data
        return nsid.encode() + b"\n" + data

    def check(self, data: bytes) -> str:
        """A value or a refusal, and a value that is what the standard library reads."""
        head, _, body = data.partition(b"\n")
        nsid = head.decode("latin-1")
        if body.startswith(b"?"):
            try:
                pairs = parse_qsl(
                    body[1:].decode("latin-1"), keep_blank_values=True, errors="strict"
                )
            except ValueError:
                return "refused: no query string"
            _, problem = self._catalog.read_params(nsid, pairs)
            return "refused by the lexicon" if problem else "accepted query"
        try:
            value = read_json(body)
        except RequestRefused as error:
            return f"refused with {error.status}: not our JSON"
        assert value == json.loads(body)
        return "refused by the lexicon" if self._catalog.validate_input(nsid, value) else "accepted body"  # fmt: skip


def _value(rng: Random, schema: dict) -> JsonValue:
    if rng.random() < 0.1:
        return rng.choice([*TEXTS, *INTEGERS, None, True, [], {}])
    match schema["type"]:
        case "integer":
            return rng.choice([schema.get("minimum", 0), schema.get("maximum", 9), *INTEGERS])
        case "boolean":
            return rng.random() < 0.5
        case "array":
            return [_value(rng, schema["items"]) for _ in range(rng.randrange(4))]
    return rng.choice([*schema.get("knownValues", []), *schema.get("enum", []), DID, *TEXTS])


def _text(rng: Random, schema: dict) -> str:
    value = _value(rng, schema)
    return value if isinstance(value, str) else json.dumps(value)
