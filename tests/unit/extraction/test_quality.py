"""How well references of PDFs are read: a floor under what `make bench` reports."""

from __future__ import annotations

import functools

import pytest

from indexer.citations.extraction import references_of_lines
from indexer.extraction.pdf import pdf_lines
from tests.documents.labelled import LabelledDocument, labelled_documents
from tests.documents.scoring import FIELDS, Score, score

FLOORS = {"work": 0.97, "doi": 0.97, "arxiv_id": 0.97, "year": 0.97, "title": 0.95}
DOCUMENTS = labelled_documents()


@functools.cache
def scored(document: LabelledDocument) -> Score:
    return score(document, references_of_lines(pdf_lines(document.data), is_wrapped=True))


@pytest.mark.parametrize("document", DOCUMENTS, ids=[each.name for each in DOCUMENTS])
def test_the_references_of_a_document_in_any_style_are_found(document: LabelledDocument):
    found = scored(document)
    assert found.precision("work") >= 0.9
    assert found.recall("work") >= 0.9


def test_all_fields_are_read_as_well_as_before():
    total = Score()
    for document in DOCUMENTS:
        total.add(scored(document))
    assert total.due["work"] >= 250
    for name in ("work", *FIELDS):
        assert total.precision(name) >= FLOORS[name], name
        assert total.recall(name) >= FLOORS[name], name
