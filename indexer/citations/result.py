"""What an extraction comes to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from indexer.citations.merging import Citation


class ExtractionOutcome(StrEnum):
    """What became of one eprint: the unit outcomes of citationExtraction."""

    EXTRACTED = "extracted"
    """There are citations."""
    SHORTENED = "shortened"
    """There are citations, and more of them than are kept of one document."""
    NO_REFERENCES = "no_references"
    """The document was read, and no source knows of a reference."""
    INCOMPLETE = "incomplete"
    """The document was read, and a service could not be asked: a later run asks again."""
    UNSUPPORTED = "unsupported"
    """Nobody here reads documents of this format."""
    UNREADABLE = "unreadable"
    """The document is broken, or reading it took more than it may."""
    TOO_LARGE = "too_large"
    """The document is larger than is read."""
    NOT_FOUND = "not_found"
    """The account's host does not have the document."""
    WRONG_CID = "wrong_cid"
    """The host sent other bytes than the record names."""
    UNAVAILABLE = "unavailable"
    """The host, or who knows it, did not answer usefully."""
    CHANGED = "changed"
    """The eprint was changed, hidden or deleted meanwhile."""


LASTING = frozenset(
    {
        ExtractionOutcome.EXTRACTED,
        ExtractionOutcome.SHORTENED,
        ExtractionOutcome.NO_REFERENCES,
        ExtractionOutcome.INCOMPLETE,
        ExtractionOutcome.UNSUPPORTED,
        ExtractionOutcome.UNREADABLE,
        ExtractionOutcome.TOO_LARGE,
    }
)
"""Those that would come out the same again: they replace what was known, and are remembered."""

FAILED = frozenset(
    {
        ExtractionOutcome.UNREADABLE,
        ExtractionOutcome.TOO_LARGE,
        ExtractionOutcome.NOT_FOUND,
        ExtractionOutcome.WRONG_CID,
        ExtractionOutcome.UNAVAILABLE,
    }
)
"""Those that count among an operation's failures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """All that is now known of what one document cites."""

    record_id: int
    uri: str
    document_cid: str
    version: str  # of the extractor, and the sources it had
    is_complete: bool  # whether every source could be asked
    outcome: ExtractionOutcome
    citations: tuple[Citation, ...]
