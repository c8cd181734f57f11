"""Lexicon documents: which ones are well formed, and whether a value satisfies them.

Owns the catalog: documents in, one compiled check for each record type, parameter list, input and
output. Refuses malformed documents (`InvalidLexicon`), never a value: a violation is answered as
text `path: reason`, the first one in the order of the value. Values are ATProto JSON of a depth
that their reader has bounded. A type that no document describes satisfies everything, and so does
a reference to one; `missing_references` tells which those are.

Source: https://atproto.com/specs/lexicon, with the tolerance described in `lexicon_checks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from indexer.errors import ConfigurationError
from indexer.protocol.lexicon_checks import (
    Check,
    Definitions,
    Schema,
    compile_schema,
    compile_token,
    full_name,
    mapping,
    strings,
)
from indexer.protocol.syntax import is_nsid

INTEGER_DIGITS_MAX = 19
"""Longest query text read as an integer; no 64-bit number has more digits."""

DOCUMENT_DEPTH_MAX = 32
"""Schemas inside each other; a document beyond it is not one that people wrote."""

_PRIMARY_TYPES = frozenset({"record", "query", "procedure", "subscription", "permission-set"})
_FIELD_TYPES = frozenset(
    {
        "array", "blob", "boolean", "bytes", "cid-link", "integer", "null", "object", "string",
        "token", "union",
    }
)  # fmt: skip
_SCHEMA_TYPES = _FIELD_TYPES | {"ref", "unknown"}
_BOUNDS = (
    "maxGraphemes", "maxLength", "maxSize", "maximum", "minGraphemes", "minLength", "minimum",
)  # fmt: skip


class InvalidLexicon(ConfigurationError):
    """A lexicon document is malformed: fix or remove the file, then start again."""

    def __init__(self, nsid: str, reason: str) -> None:
        super().__init__(f"lexicon {nsid}: {reason}")
        self.nsid = nsid
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """What a dispatcher must know of an XRPC method."""

    nsid: str
    type: str  # query | procedure | subscription
    input_encoding: str | None  # None: the call carries no body
    output_encoding: str | None
    errors: tuple[str, ...]  # declared error names
    parameters: Mapping[str, Mapping[str, object]]  # name -> its schema


@dataclass(frozen=True, slots=True)
class _Entry:
    """The compiled parts of one document's main definition; an absent part allows everything."""

    record: Check | None = None
    key: str | None = None
    method: Method | None = None
    params: Check | None = None
    input: Check | None = None
    output: Check | None = None


@dataclass(slots=True)
class LexiconCatalog:
    """All documents known to this process. Of two with the same id the later one counts."""

    _schemas: dict[str, tuple[str, Schema]]  # full name -> (nsid, definition)
    missing_references: tuple[str, ...]
    _aliases: dict[str, str]
    _checks: dict[str, Check] = field(default_factory=dict)
    _entries: dict[str, _Entry] = field(default_factory=dict)

    @classmethod
    def from_documents(cls, documents: Iterable[object]) -> LexiconCatalog:
        """Take over parsed JSON documents. Raises `InvalidLexicon` for the first malformed one."""
        by_id: dict[str, Mapping[str, Schema]] = {}
        for document in documents:
            nsid, definitions = _parse_document(document)
            by_id[nsid] = definitions
        schemas = {
            f"{nsid}#{name}": (nsid, schema)
            for nsid, definitions in by_id.items()
            for name, schema in definitions.items()
        }
        wanted = {
            full_name(nsid, reference)
            for nsid, schema in schemas.values()
            for reference in _references(schema)
        }
        aliases = {
            name: alias
            for name, (_, schema) in schemas.items()
            if isinstance(alias := _own_type_name(schema), str)
        }
        catalog = cls(schemas, tuple(sorted(wanted - schemas.keys())), aliases)
        for nsid in by_id:
            catalog._entries[nsid] = catalog._compile_entry(nsid)
        return catalog

    @property
    def record_nsids(self) -> tuple[str, ...]:
        """The record types described, sorted."""
        return tuple(sorted(n for n, entry in self._entries.items() if entry.record is not None))

    @property
    def methods(self) -> dict[str, Method]:
        """NSID -> the XRPC method described."""
        return {n: e.method for n, e in self._entries.items() if e.method is not None}

    def record_key(self, nsid: str) -> str | None:
        """The `key` of a record type, as `tid` or `literal:self`; None: no such type."""
        entry = self._entries.get(nsid)
        return entry.key if entry is not None else None

    def validate_record(self, nsid: str, value: object) -> str | None:
        """The first violation of the record type `nsid`; None when valid or not described."""
        entry = self._entries.get(nsid)
        if entry is None or entry.record is None:
            return None
        if type(value) is dict and value.get("$type") != nsid:
            return f"$type: must be {nsid}"
        return _told(entry.record, value)

    def validate_params(self, nsid: str, value: Mapping[str, object]) -> str | None:
        """The first violation by typed parameters of the method `nsid`."""
        entry = self._entries.get(nsid)
        return _told(entry.params, value) if entry is not None else None

    def validate_input(self, nsid: str, value: object) -> str | None:
        """The first violation by the JSON body of a call of the method `nsid`."""
        entry = self._entries.get(nsid)
        return _told(entry.input, value) if entry is not None else None

    def validate_output(self, nsid: str, value: object) -> str | None:
        """The first violation by the JSON answer of the method `nsid`."""
        entry = self._entries.get(nsid)
        return _told(entry.output, value) if entry is not None else None

    def read_params(
        self, nsid: str, pairs: Iterable[tuple[str, str]]
    ) -> tuple[dict[str, object], str | None]:
        """Typed parameters of a query string and their first violation.

        `pairs` are decoded names and values in order. Declared types decide how a text is read
        (`true|false`, decimal integers, a repeated name for arrays); defaults fill what is absent;
        names that the method does not declare are ignored.
        """
        entry = self._entries.get(nsid)
        if entry is None or entry.method is None:
            return {}, None
        declared = entry.method.parameters
        params: dict[str, object] = {}
        for name, text in pairs:
            schema = declared.get(name)
            if schema is None:
                continue
            if schema["type"] == "array":
                items = params.setdefault(name, [])
                if isinstance(items, list):
                    items.append(_read_text(mapping(schema["items"]), text))
            elif name in params:
                return params, f"{name}: is given twice"
            else:
                params[name] = _read_text(schema, text)
        for name, schema in declared.items():
            if name not in params and "default" in schema:
                params[name] = schema["default"]
        return params, _told(entry.params, params)

    def _find(self, name: str) -> Check | None:
        check = self._checks.get(name)
        if check is None and name in self._schemas:
            nsid, schema = self._schemas[name]
            if schema["type"] == "record":
                schema = mapping(schema["record"])
            if schema["type"] == "token":
                check = self._checks[name] = compile_token(name)
            elif schema["type"] in _SCHEMA_TYPES:
                check = self._checks[name] = compile_schema(schema, self._definitions(nsid))
        return check

    def _definitions(self, nsid: str) -> Definitions:
        return Definitions(nsid, self._find, self._aliases)

    def _compile_entry(self, nsid: str) -> _Entry:
        main = mapping(self._schemas.get(f"{nsid}#main", ("", {}))[1])
        kind = main.get("type")
        if kind == "record":
            return _Entry(record=self._find(f"{nsid}#main"), key=str(main["key"]))
        if kind not in ("query", "procedure", "subscription"):
            return _Entry()
        compiled = partial(self._compile_part, nsid)
        request, answer = mapping(main.get("input")), mapping(main.get("output"))
        parameters = mapping(main.get("parameters"))
        return _Entry(
            method=Method(
                nsid=nsid,
                type=str(kind),
                input_encoding=_text_or_none(request.get("encoding")),
                output_encoding=_text_or_none(answer.get("encoding")),
                errors=tuple(_error_names(main)),
                parameters={
                    name: mapping(schema)
                    for name, schema in mapping(parameters.get("properties")).items()
                },
            ),
            params=compiled(parameters),
            input=compiled(request.get("schema")),
            output=compiled(answer.get("schema")),
        )

    def _compile_part(self, nsid: str, schema: object) -> Check | None:
        part = mapping(schema)
        return compile_schema(part, self._definitions(nsid)) if part else None


def _told(check: Check | None, value: object) -> str | None:
    """The check's verdict with a readable path: `authors[0].name: is required`."""
    problem = check(value) if check is not None else None
    if problem is None:
        return None
    return problem[1:] if problem.startswith(".") else "value" + problem


def _read_text(schema: Schema, text: str) -> object:
    """A query value by its declared type; what does not read as one stays text and is refused."""
    if schema["type"] == "boolean" and text in ("true", "false"):
        return text == "true"
    digits = text.removeprefix("-")
    is_integer = digits.isascii() and digits.isdecimal() and len(digits) <= INTEGER_DIGITS_MAX
    return int(text) if schema["type"] == "integer" and is_integer else text


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _error_names(main: Schema) -> Iterator[str]:
    errors = main.get("errors")
    for error in errors if isinstance(errors, list) else []:
        name = mapping(error).get("name")
        if isinstance(name, str):
            yield name


def _own_type_name(schema: Schema) -> object:
    """The `$type` constant that a definition demands of its objects, if any."""
    return mapping(mapping(schema.get("properties")).get("$type")).get("const")


def _references(part: object) -> Iterator[str]:
    """Every reference in a definition; its depth is bounded by `_check_schema`."""
    if isinstance(part, dict):
        if part.get("type") == "ref" and isinstance(part.get("ref"), str):
            yield part["ref"]
        elif part.get("type") == "union":
            yield from strings(part.get("refs"))
        for inner in part.values():
            yield from _references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _references(inner)


def _parse_document(document: object) -> tuple[str, Mapping[str, Schema]]:
    """Id and definitions of a document whose every schema is well formed."""
    if not isinstance(document, dict):
        raise InvalidLexicon("?", "is not an object")
    nsid = document.get("id")
    if not isinstance(nsid, str) or not is_nsid(nsid):
        raise InvalidLexicon(str(nsid)[:100], "id is not an NSID")
    version = document.get("lexicon")
    if version != 1 or isinstance(version, bool):
        raise InvalidLexicon(nsid, "lexicon must be 1")
    definitions = document.get("defs")
    if not isinstance(definitions, dict) or not definitions:
        raise InvalidLexicon(nsid, "defs must be an object with at least one definition")
    for name, schema in definitions.items():
        problem = _definition_problem(name, schema)
        if problem is not None:
            raise InvalidLexicon(nsid, f"{name}{problem}")
    return nsid, definitions


def _definition_problem(name: str, schema: object) -> str | None:
    kind = _text_or_none(mapping(schema).get("type"))
    if kind in _PRIMARY_TYPES:
        if name != "main":
            return f": a {kind} must be the main definition"
        return _primary_problem(mapping(schema))
    if kind not in _FIELD_TYPES:
        return f": {kind} cannot be defined by itself"
    return _schema_problem(schema, 0)


def _primary_problem(main: Schema) -> str | None:
    if main["type"] == "record":
        if not isinstance(main.get("key"), str):
            return ".key: is required"
        if mapping(main.get("record")).get("type") != "object":
            return ".record: must be an object schema"
        return _schema_problem(main["record"], 0)
    parameters = mapping(main.get("parameters"))
    if parameters and parameters.get("type") != "params":
        return ".parameters: must be of type params"
    parts = [*mapping(parameters.get("properties")).values()]
    for part in ("input", "output"):
        schema = mapping(main.get(part)).get("schema")
        if schema is not None:
            parts.append(schema)
    return next((p for p in (_schema_problem(part, 0) for part in parts) if p), None)


def _schema_problem(schema: object, depth: int) -> str | None:
    """What is malformed in a schema, with its path; None when it can be compiled."""
    if depth > DOCUMENT_DEPTH_MAX:
        return ": is nested too deep"
    if not isinstance(schema, dict) or _text_or_none(schema.get("type")) not in _SCHEMA_TYPES:
        return ": has no known type"
    problem = _constraint_problem(schema)
    if problem is not None:
        return problem
    kind = schema["type"]
    if kind == "array":
        problem = _schema_problem(schema.get("items"), depth + 1)
        return f".items{problem}" if problem else None
    if kind == "object":
        return _object_problem(schema, depth)
    return _reference_problem(schema)


def _reference_problem(schema: Schema) -> str | None:
    if schema["type"] == "ref" and not isinstance(schema.get("ref"), str):
        return ".ref: must be a name"
    refs = schema.get("refs")
    if schema["type"] == "union" and not (
        isinstance(refs, list) and len(strings(refs)) == len(refs)
    ):
        return ".refs: must be a list of names"
    return None


def _constraint_problem(schema: Schema) -> str | None:
    for bound in _BOUNDS:
        if bound in schema and type(schema[bound]) is not int:
            return f".{bound}: must be an integer"
    allowed = schema.get("enum", [])
    if not isinstance(allowed, list) or not all(isinstance(item, str | int) for item in allowed):
        return ".enum: must be a list of values"
    if not isinstance(schema.get("const", ""), str | int):
        return ".const: must be a value"
    if not isinstance(schema.get("accept", []), list):
        return ".accept: must be a list of MIME types"
    return None


def _object_problem(schema: Schema, depth: int) -> str | None:
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        return ".properties: must be an object"
    for key in ("required", "nullable"):
        names = schema.get(key, [])
        if not isinstance(names, list) or len(strings(names)) != len(names):
            return f".{key}: must be a list of names"
    for name, inner in properties.items():
        problem = _schema_problem(inner, depth + 1)
        if problem is not None:
            return f".{name}{problem}"
    return None
