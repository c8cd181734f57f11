from __future__ import annotations

import contextlib
import cProfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.citations.merging import CITATIONS_MAX, filled, merged
from indexer.citations.reference import REFERENCES_MAX, CitationSource, Reference
from indexer.citations.services import (
    crossref_references,
    crossref_works,
    semantic_scholar_references,
)
from indexer.errors import InvalidUpstream

DOCUMENT, CROSSREF, SCHOLAR = (
    CitationSource.DOCUMENT,
    CitationSource.CROSSREF,
    CitationSource.SEMANTIC_SCHOLAR,
)
TITLE = "Slow rivers of the plain"


def ref(source: CitationSource = DOCUMENT, **fields: object) -> Reference:
    return Reference(source=source, **fields)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ref(doi="10.1000/a", title="One"), ref(CROSSREF, doi="10.1000/a", title="Another")),
        (ref(arxiv_id="2001.00001"), ref(SCHOLAR, doi="10.48550/arxiv.2001.00001")),
        (ref(title=TITLE, year=2019), ref(SCHOLAR, title=TITLE.upper(), year=2019)),
        (ref(title=TITLE, year=2019), ref(SCHOLAR, title=TITLE)),
    ],
)
def test_the_same_work_is_one_citation_with_both_sources(one: Reference, other: Reference):
    (citation,), _ = merged([one, other])
    assert citation.sources == (one.source, other.source)
    assert citation.reference.source is one.source


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ref(title=TITLE, year=2019), ref(title=TITLE, year=2020)),
        (ref(title=TITLE, doi="10.1000/a"), ref(title=TITLE, doi="10.1000/b")),
        (ref(raw="entry one of two"), ref(raw="entry two of two")),
    ],
)
def test_different_works_stay_apart(one: Reference, other: Reference):
    assert len(merged([one, other])[0]) == 2


def test_gaps_are_filled_and_what_is_there_stays():
    (citation,), _ = merged(
        [
            ref(title=TITLE, raw="as written"),
            ref(
                SCHOLAR, title="SLOW RIVERS of the plain", doi="10.1000/a", year=2019, venue="Flow"
            ),
            ref(CROSSREF, doi="10.1000/a", authors=("Roe",), year=2020),
        ]
    )
    found = citation.reference
    assert (found.title, found.year, found.doi, found.venue, found.authors, found.raw) == (
        TITLE, 2019, "10.1000/a", "Flow", ("Roe",), "as written",
    )  # fmt: skip
    assert citation.sources == (DOCUMENT, SCHOLAR, CROSSREF)


def test_the_citing_work_is_not_among_its_citations():
    own = {"doi:10.1000/own", "title:slowriversoftheplain"}
    found, _ = merged(
        [ref(doi="10.1000/own"), ref(title=TITLE), ref(title="Quite another title")], own_keys=own
    )
    assert [each.reference.title for each in found] == ["Quite another title"]


def test_works_that_were_looked_up_complete_what_names_them():
    known = {"10.1000/a": ref(CROSSREF, doi="10.1000/a", title=TITLE, year=2019)}
    first, second = filled([ref(doi="10.1000/a", year=2018), ref(doi="10.1000/b")], known)
    assert (first.title, first.year, first.source) == (TITLE, 2018, DOCUMENT)
    assert second.title is None


def test_the_number_of_citations_is_bounded():
    found, left_out = merged(ref(doi=f"10.1000/{n}") for n in range(CITATIONS_MAX + 5))
    assert (len(found), left_out) == (CITATIONS_MAX, 5)


@pytest.mark.parametrize(
    "each",
    [
        lambda n: ref(raw=f"entry {n}"),
        lambda n: ref(title=TITLE, doi=f"10.1000/{n}"),
        lambda n: ref(title=TITLE, year=1500 + n % 600, doi=f"10.1000/{n}"),
    ],
    ids=["texts", "one title", "one title of many years"],
)
def test_the_work_of_merging_grows_with_the_number_of_references_only(each):
    def calls(count: int) -> int:
        """How many functions are called for so many references."""
        profile = cProfile.Profile(builtins=False)
        references = [each(n) for n in range(count)]
        profile.runcall(merged, references)
        return sum(entry.callcount for entry in profile.getstats())

    assert calls(800) < 2.5 * calls(400)


def test_the_same_text_is_one_entry_even_where_one_source_could_read_it():
    (citation,), _ = merged([ref(CitationSource.GROBID, raw="1. T", title=TITLE), ref(raw="1. T")])
    assert citation.sources == (CitationSource.GROBID, DOCUMENT)


def test_of_a_deposited_list_without_end_the_first_thousand_are_read_and_the_others_counted():
    entries = [
        {"unstructured": f"Doe, J. (2010). Title {n}. Letters. {'x' * 9}"}
        for n in range(REFERENCES_MAX + 7)
    ]
    found = crossref_references({"message": {"reference": entries}})
    assert (len(found.references), found.left_out) == (REFERENCES_MAX, 7)


REFERENCES = st.builds(
    Reference,
    source=st.sampled_from(CitationSource),
    title=st.sampled_from([None, TITLE, "Another title altogether"]),
    year=st.sampled_from([None, 2019, 2020]),
    doi=st.sampled_from([None, "10.1000/a", "10.1000/b"]),
    arxiv_id=st.sampled_from([None, "2001.00001"]),
)


@given(st.lists(REFERENCES, max_size=8))
@settings(max_examples=50)
def test_no_doi_is_cited_twice_and_merging_again_adds_nothing(references: list[Reference]):
    once, _ = merged(references)
    dois = [each.reference.doi for each in once if each.reference.doi]
    assert len(dois) == len(set(dois))
    assert set(dois) <= {each.doi for each in references}
    assert len(merged(each.reference for each in once)[0]) <= len(once)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=20), st.floats()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["message", "items", "reference", "DOI", "title", "data", "year",
                             "citedPaper", "externalIds", "authors", "name", "issued",
                             "date-parts", "next", "unstructured", "author"]),
            inner, max_size=5,
        ),
    ),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
@settings(max_examples=50)
def test_any_answer_of_a_service_is_read_or_refused(answer: object):
    for read in (crossref_references, crossref_works, semantic_scholar_references):
        with contextlib.suppress(InvalidUpstream):
            read(answer)
