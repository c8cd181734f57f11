"""The record types that this program knows, and the lexicons that values are held against.

Owns discovery: every module of `indexer.records.types` declares one `RECORD_TYPE`; the bundled
lexicon documents and those of the operator's folder make the catalog, the operator's counting
where both describe a type. Adding a type is one module and one document, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module, resources
from pathlib import Path

import msgspec

from indexer.errors import ConfigurationError
from indexer.protocol.lexicon import InvalidLexicon, LexiconCatalog
from indexer.records import types
from indexer.records.projection import RecordType

GOVERNANCE_DID = "did:plc:5wzpn4a4nbqtz3q45hyud6hd"
"""Chive's own governance account, the default of `governance.did`."""

JUDGEMENT_REVISION = 2
"""Raised whenever validation or an upgrade comes to another verdict by the same lexicons."""


@dataclass(frozen=True, slots=True)
class Registry:
    """What every path of a record consults."""

    types: Mapping[str, RecordType]  # NSID -> type, sorted by NSID
    catalog: LexiconCatalog
    governance_did: str
    lexicon_id: str  # differs where the same value may be judged otherwise
    lexicon_dir: Path | None  # the operator's folder

    @property
    def source(self) -> RegistrySource:
        """What another process needs to load it again."""
        folder = None if self.lexicon_dir is None else str(self.lexicon_dir)
        return RegistrySource(self.governance_did, folder, self.lexicon_id)


class RegistrySource(msgspec.Struct, frozen=True):
    """From what another process loads the registry that this one goes by."""

    governance_did: str
    lexicon_dir: str | None
    lexicon_id: str

    def load(self) -> Registry:
        """The same registry. Raises `ConfigurationError` where it has become another one."""
        registry = load_registry(
            governance_did=self.governance_did,
            lexicon_dir=None if self.lexicon_dir is None else Path(self.lexicon_dir),
        )
        if registry.lexicon_id != self.lexicon_id:
            raise ConfigurationError("the lexicon files have changed since the daemon started")
        return registry


def load_registry(
    *, governance_did: str = GOVERNANCE_DID, lexicon_dir: Path | None = None
) -> Registry:
    """Everything bundled, and the lexicon files (`*.json`, at any depth) of an operator's folder.

    Raises `ConfigurationError` naming the first file that is not a well-formed lexicon.
    """
    documents = bundled_documents()
    if lexicon_dir is not None:
        documents += _read_folder(lexicon_dir)
    return Registry(
        {kind.nsid: kind for kind in record_types()},
        LexiconCatalog.from_documents(documents),
        governance_did,
        _lexicon_id(documents),
        lexicon_dir,
    )


def _lexicon_id(documents: Iterable[object]) -> str:
    text = json.dumps([JUDGEMENT_REVISION, *documents], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def record_types() -> tuple[RecordType, ...]:
    """All declared types, sorted by NSID."""
    names = (module.name for module in pkgutil.iter_modules(types.__path__))
    modules = (import_module(f"{types.__name__}.{name}") for name in names)
    return tuple(sorted((module.RECORD_TYPE for module in modules), key=lambda kind: kind.nsid))


def bundled_documents() -> list[object]:
    """The parsed lexicon documents of the package."""
    folder = resources.files("indexer").joinpath("lexicons")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name)
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def _read_folder(folder: Path) -> Iterable[object]:
    if not folder.is_dir():
        raise ConfigurationError(f"scope.lexicon_dir: {folder} is not a folder with lexicon files")
    return [_read_file(file) for file in sorted(folder.rglob("*.json"))]


def _read_file(file: Path) -> object:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise ConfigurationError(
            f"scope.lexicon_dir: {file} is not a readable JSON file: {exc}"
        ) from exc
    try:
        LexiconCatalog.from_documents([document])
    except InvalidLexicon as exc:
        raise ConfigurationError(f"scope.lexicon_dir: {file} is no lexicon: {exc}") from exc
    return document
