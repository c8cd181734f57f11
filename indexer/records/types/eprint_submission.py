"""Eprints: the root of everything else, and the one type that full-text search holds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from indexer.citations.eprint import submission_keys
from indexer.citations.identifiers import normal_doi
from indexer.derived import Mark, SqlValue
from indexer.protocol.syntax import is_at_uri
from indexer.records.projection import (
    Count,
    Labels,
    RecordContext,
    RecordType,
    SideColumn,
    SideTable,
    SqlType,
    Value,
    blob,
    computed,
    json_text,
    objects,
    pick,
    text,
    texts,
)
from indexer.records.rich_text import plain_text
from indexer.records.upgrades import FIELD_NODE_COLLECTION, SUBMISSION_UPGRADES

_FORMATS = {
    "application/pdf": "pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "text/html": "html",
    "text/markdown": "markdown",
    "text/x-markdown": "markdown",
    "text/x-tex": "latex",
    "application/x-tex": "latex",
    "application/x-ipynb+json": "jupyter",
    "application/vnd.oasis.opendocument.text": "odt",
    "application/rtf": "rtf",
    "application/epub+zip": "epub",
    "text/plain": "txt",
}
FIELDS_MAX = 10
"""As many as `fieldUris` may have."""

_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)


def _abstract(value: Value) -> str:
    """From the rich text, which is what readers see; the author's own plain form as fallback."""
    given = value.get("abstractPlainText")
    return plain_text(value.get("abstract")) or (given if isinstance(given, str) else "")


def _abstract_plain_text(value: Value, _: RecordContext) -> SqlValue:
    return _abstract(value)


def _document_format(value: Value, _: RecordContext) -> SqlValue:
    slug = value.get("documentFormatSlug")
    if isinstance(slug, str) and slug:
        return slug
    return _FORMATS.get(str(pick(value, "document", "mimeType")), "pdf")


def _version(value: Value, _: RecordContext) -> SqlValue:
    for number in (value.get("versionNumber"), pick(value, "version", "major")):
        if type(number) is int:
            return number
    return 1


def _doi(value: Value, _: RecordContext) -> SqlValue:
    """The published DOI alone and in lower case, which is how DOIs compare."""
    return normal_doi(str(pick(value, "publishedVersion", "doi") or ""))


def _is_paper_account(value: Value, context: RecordContext) -> SqlValue:
    """Only the account that holds the record can say that it is the paper's own."""
    return int(value.get("paperDid") == context.did)


def _needs_abstract_migration(_: Value, context: RecordContext) -> SqlValue:
    return int(isinstance(context.signed.get("abstract"), str))


def _field_uris(value: Value, context: RecordContext) -> list[str]:
    """The fields as URIs; a bare UUID is a node of the governance account.

    Web clients have written `fieldNodes` with objects where the lexicon says `fieldUris`. Nothing
    bounds that one, so it counts as far as it could have been the other.
    """
    found = texts(value.get("fieldUris"))
    if not found:
        nodes = value.get("fieldNodes")
        named = texts(nodes) or texts([node.get("uri") for node in objects(nodes)])
        found = [each for each in named if is_at_uri(each) or _UUID.fullmatch(each)][:FIELDS_MAX]
    graph = f"at://{context.governance_did}/{FIELD_NODE_COLLECTION}/"
    return [graph + field.lower() if _UUID.fullmatch(field) else field for field in found]


def _field_marks(value: Value, context: RecordContext) -> Iterable[Mark]:
    for position, uri in enumerate(_field_uris(value, context)):
        yield Mark("field", uri, f"{position:03}")


def _authors(value: Value, _: RecordContext) -> Iterable[tuple[SqlValue, ...]]:
    for position, author in enumerate(objects(value.get("authors"))):
        order = author.get("order")
        yield (
            order if type(order) is int else position + 1,
            *(_text_or_none(author.get(name)) for name in ("did", "name", "handle", "orcid")),
            int(author.get("isCorrespondingAuthor") is True),
            int(author.get("isHighlighted") is True),
        )


def _keywords(value: Value, _: RecordContext) -> Iterable[tuple[SqlValue, ...]]:
    return ((keyword,) for keyword in texts(value.get("keywords")))


def _match_keys(value: Value, _: RecordContext) -> Iterable[tuple[SqlValue, ...]]:
    """By what citations of the eprint are recognised."""
    return ((key,) for key in submission_keys(value))


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _search(value: Value, _: RecordContext) -> tuple[str, ...]:
    names = (author.get("name") for author in objects(value.get("authors")))
    return (
        str(value.get("title", "")),
        _abstract(value),
        "\n".join(texts(value.get("keywords"))),
        "\n".join(name for name in names if isinstance(name, str)),
    )


RECORD_TYPE = RecordType(
    nsid="pub.chive.eprint.submission",
    own_columns=(
        text("submitted_by", "submittedBy", is_indexed=True),
        text("paper_did", "paperDid", is_indexed=True),
        computed("is_paper_account", SqlType.INTEGER, _is_paper_account, "paperDid"),
        text("title", "title"),
        json_text("title_rich", "titleRich"),
        json_text("authors", "authors"),
        json_text("abstract", "abstract"),
        computed("abstract_plain_text", SqlType.TEXT, _abstract_plain_text, "abstractPlainText"),
        computed("needs_abstract_migration", SqlType.INTEGER, _needs_abstract_migration),
        *blob("document_blob", "document"),
        computed("document_format", SqlType.TEXT, _document_format, "documentFormatSlug"),
        text("document_format_uri", "documentFormatUri"),
        json_text("supplementary_materials", "supplementaryMaterials"),
        json_text("keywords", "keywords"),
        json_text("field_uris", "fieldUris"),
        json_text("topic_uris", "topicUris"),
        json_text("facet_uris", "facetUris"),
        computed("version", SqlType.INTEGER, _version, "versionNumber", "version"),
        json_text("semantic_version", "version"),
        text("previous_version_uri", "previousVersion", is_indexed=True),
        replace(
            text("license", "licenseSlug", is_indexed=True, indexed_with=("created_at",)),
            is_caseless=True,
        ),
        text("license_uri", "licenseUri"),
        text("publication_status", "publicationStatusSlug", default="preprint"),
        text("publication_status_uri", "publicationStatusUri"),
        text("paper_type", "paperTypeSlug"),
        text("paper_type_uri", "paperTypeUri"),
        json_text("published_version", "publishedVersion"),
        computed("doi", SqlType.TEXT, _doi, "publishedVersion", is_indexed=True),
        json_text("external_ids", "externalIds"),
        text("arxiv_id", "externalIds", "arxivId", is_indexed=True),
        json_text("related_works", "relatedWorks"),
        json_text("repositories", "repositories"),
        json_text("funding", "funding"),
        json_text("conference_presentation", "conferencePresentation"),
    ),
    side_tables=(
        SideTable(
            "eprint_author",
            (
                SideColumn("author_order", SqlType.INTEGER),
                SideColumn("author_did", is_indexed=True),
                SideColumn("name", is_indexed=True),
                SideColumn("handle", is_indexed=True, is_caseless=True),
                SideColumn("orcid", is_indexed=True),
                SideColumn("is_corresponding", SqlType.INTEGER),
                SideColumn("is_highlighted", SqlType.INTEGER),
            ),
            _authors,
        ),
        SideTable("eprint_match_key", (SideColumn("key", is_indexed=True),), _match_keys),
        SideTable("eprint_keyword", (SideColumn("keyword", is_indexed=True),), _keywords),
    ),
    marks=(_field_marks,),
    counts=(
        Count("reply_count", "reply"),
        Count("endorsement_count", "endorsement"),
        Count("citation_count", "citation"),
        Count("cited_by_count", "cited_by"),
        Count("tag_count", "tag"),
        Count("annotation_count", "annotation"),
        Count("entity_link_count", "entity_link"),
        Count("version_count", "version"),
        Count("related_work_count", "related_work"),
    ),
    labels=(Labels("fields", "field"),),
    search=_search,
    upgrades=SUBMISSION_UPGRADES,
)
