from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.citations.identifiers import (
    find_arxiv_id,
    find_doi,
    find_pmcid,
    find_pmid,
    normal_arxiv_id,
    normal_doi,
    normal_pmcid,
    normal_pmid,
    title_key,
    without_identifiers,
)
from indexer.citations.reference import work_keys


@pytest.mark.parametrize(
    ("text", "doi"),
    [
        ("doi:10.1000/ABC.", "10.1000/abc"),
        ("https://doi.org/10.1016/S0140-6736(20)30183-5).", "10.1016/s0140-6736(20)30183-5"),
        ("(see 10.1000/xyz)", "10.1000/xyz"),
        ("https://dx.doi.org/10.1000%2Fxyz, 2020", "10.1000/xyz"),
        ("https://doi.org/10.1016/S0140-6736%2820%2930183-5", "10.1016/s0140-6736(20)30183-5"),
        (
            "https://doi.org/10.1175/1520-0469(1963)020%3C0130:DNF%3E2.0.CO;2",
            "10.1175/1520-0469(1963)020<0130:dnf>2.0.co;2",
        ),
        ("https://doi.org/10.1000%2Fabc%20and%00more", "10.1000/abc"),
        ("DOI 10.1000.12/a;b<c", "10.1000.12/a;b"),
        (
            "J. Atmos. Sci., 20, 130–141, doi:10.1175/1520-0469(1963)020<0130:DNF>2.0.CO;2.",
            "10.1175/1520-0469(1963)020<0130:dnf>2.0.co;2",
        ),
        (
            "<https://doi.org/10.1002/(SICI)1099-1573(199905)13:3<236::AID-PTR443>3.0.CO;2-9>",
            "10.1002/(sici)1099-1573(199905)13:3<236::aid-ptr443>3.0.co;2-9",
        ),
        ("<https://doi.org/10.1000/xyz>", "10.1000/xyz"),
        ("version 210.1000/abc", None),
        ("10.12/too-short", None),
        ("10.1000/", None),
    ],
)
def test_a_doi_is_found_without_what_surrounds_it(text: str, doi: str | None):
    assert find_doi(text) == doi


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("arXiv preprint arXiv:1706.03762v5, 2017", "1706.03762"),
        ("https://arxiv.org/pdf/2101.00001v2.pdf", "2101.00001"),
        ("https://arxiv.org/html/2405.00001v2", "2405.00001"),
        ("CoRR, abs/1412.6980", "1412.6980"),
        ("arXiv:hep-th/9901001 [hep-th]", "hep-th/9901001"),
        ("G. Perelman, arXiv:math.DG/0211159v1", "math/0211159"),
        ("https://arxiv.org/abs/cond-mat.mes-hall/0101001", "cond-mat/0101001"),
        ("https://doi.org/10.48550/arXiv.2005.14165", "2005.14165"),
        ("pp. 1706.03762", None),
    ],
)
def test_an_arxiv_id_is_found_without_its_version(text: str, number: str | None):
    assert find_arxiv_id(text) == number


def test_ids_of_pubmed_are_found_where_they_are_called_so():
    assert (find_pmid("PMID: 0123."), find_pmid("12345678")) == ("123", None)
    assert find_pmid("https://pubmed.ncbi.nlm.nih.gov/987/") == "987"
    assert (find_pmcid("PMCID: PMC12345"), normal_pmcid("12345")) == ("pmc12345", "pmc12345")
    assert (normal_pmid("PMID 5"), normal_pmid("x")) == ("5", None)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Slow rivers: of the plain", "SLOW RIVERS OF THE PLAIN."),
        ("Self-supervised learning", "Selfsupervised learn-ing"),
        ("Über Flüsse im Norden", "Uber Flusse im Norden"),
        ("<i>Drosophila</i> &lt; sleep cycles", "Drosophila &lt; sleep cycles"),
        ("河流泥沙的测量 方法", "河流泥沙的测量方法"),
        ("Методы измерения", "методы  измерения"),
    ],
)
def test_titles_compare_by_their_letters(one: str, other: str):
    assert title_key(one) == title_key(other) is not None


def test_short_titles_and_scripts_have_the_keys_they_deserve():
    assert title_key("Preface") is None
    assert title_key("!!! ??? ... ---") is None
    assert title_key("自然语言") is None
    assert title_key("自然语言处理综述") is not None


def test_keys_come_strongest_first_and_arxivs_own_doi_is_the_arxiv_id():
    keys = work_keys(
        doi="10.48550/arXiv.2101.00001", pmid="12", title="A title that is long enough"
    )
    assert keys == ("arxiv:2101.00001", "pmid:12", "title:atitlethatislongenough")
    assert work_keys(doi="10.1/short", arxiv_id="x", title="Short") == ()


@pytest.mark.parametrize("head", ["arxiv", "arxiv preprint", "corr,", "doi", "doi:", "abs/"])
def test_a_run_of_spaces_is_looked_through_in_no_time(head: str):
    """It once took the cube of its length: hours for the longest that is looked at."""
    text = f"{head}{' ' * 1400}?"
    began = time.thread_time()
    assert normal_arxiv_id(text) is None
    assert without_identifiers(text)
    assert time.thread_time() - began < 1.0


@given(st.text(max_size=300))
def test_any_text_gives_an_identifier_in_its_normal_form_or_none(text: str):
    for find, normal in ((find_doi, normal_doi), (find_arxiv_id, normal_arxiv_id)):
        found = find(text)
        assert found is None or normal(found) == found
    for normal in (normal_pmid, normal_pmcid):
        found = normal(text)
        assert found is None or normal(found) == found
    key = title_key(text)
    assert key is None or title_key(key) is not None
    assert isinstance(without_identifiers(text), str)
