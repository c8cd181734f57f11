"""Citations that people curate; those that we extract ourselves live in a table of their own."""

from __future__ import annotations

from collections.abc import Iterable

from indexer.derived import Mark
from indexer.records.projection import (
    RecordContext,
    RecordType,
    Value,
    integer,
    json_text,
    mark,
    pick,
    text,
)


def _cited_by(value: Value, _: RecordContext) -> Iterable[Mark]:
    """Counted on the cited eprint; a work that cites itself is not."""
    cited = pick(value, "citedWork", "chiveUri")
    if isinstance(cited, str) and cited != value.get("eprintUri"):
        yield Mark("cited_by", cited)


RECORD_TYPE = RecordType(
    nsid="pub.chive.eprint.citation",
    did_column="curator_did",
    own_columns=(
        text("eprint_uri", "eprintUri", is_indexed=True),
        text("title", "citedWork", "title"),
        text("doi", "citedWork", "doi", is_indexed=True),
        text("arxiv_id", "citedWork", "arxivId"),
        text("url", "citedWork", "url"),
        json_text("authors", "citedWork", "authors"),
        integer("year", "citedWork", "year"),
        text("venue", "citedWork", "venue"),
        text("chive_match_uri", "citedWork", "chiveUri", is_indexed=True),
        text("citation_type", "citationType"),
        text("context", "context"),
    ),
    marks=(mark("citation", "eprintUri"), _cited_by),
)
