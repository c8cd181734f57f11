"""Eprints as those that cite and are cited."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from indexer.citations.reference import work_keys

SSRN_DOI = "10.2139/ssrn."


@dataclass(frozen=True, slots=True, kw_only=True)
class EprintDocument:
    """An indexed eprint and where its document is: what an extraction starts from."""

    record_id: int
    uri: str
    did: str  # of the account that holds the record and its blobs
    cid: str  # of the document, base32 text
    form: str  # slug of its format
    size: int | None  # bytes, as the record says
    doi: str | None
    arxiv_id: str | None
    semantic_scholar_id: str | None
    keys: frozenset[str]  # by which citations of the eprint itself are recognised


def submission_keys(value: Mapping[str, object]) -> tuple[str, ...]:
    """The keys of an eprint, from its record: published version, external ids, title."""
    return tuple(dict.fromkeys(_keys(value)))


def _keys(value: Mapping[str, object]) -> Iterator[str]:
    published, external = value.get("publishedVersion"), value.get("externalIds")
    yield from work_keys(doi=_text(published, "doi"))
    ssrn = _text(external, "ssrnId")
    for doi in (_text(external, "zenodoDoi"), f"{SSRN_DOI}{ssrn}" if ssrn else None):
        if doi is not None:
            yield from work_keys(doi=doi)
    yield from work_keys(
        arxiv_id=_text(external, "arxivId"),
        pmid=_text(external, "pmid"),
        pmcid=_text(external, "pmcid"),
        title=_text(value, "title"),
    )


def _text(value: object, name: str) -> str | None:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, str) else None
