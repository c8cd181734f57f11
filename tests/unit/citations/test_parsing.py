from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from indexer.citations.bibtex import bibtex_references, plain_latex
from indexer.citations.entries import split_entries
from indexer.citations.extraction import references_of_lines
from indexer.citations.headings import is_heading, reference_section
from indexer.citations.lines import Line, joined, without_furniture
from indexer.citations.parsing import parse_reference

ENTRIES = {
    "Vaswani A, Shazeer N, et al. Attention to slow rivers. Advances in Flow. 2017;30:5998-6008.": (
        "Attention to slow rivers", 2017, "Advances in Flow", ("Vaswani A", "Shazeer N")),
    "LeCun, Y., Bengio, Y. & Hinton, G. Deep rivers. Nature 521, 436–444 (2015).": (
        "Deep rivers", 2015, "Nature", ("LeCun, Y.", "Bengio, Y.", "Hinton, G.")),
    "Kuhn, T. S. (1962). The structure of slow rivers (2nd ed.). Harbour Press.": (
        "The structure of slow rivers", 1962, "Harbour Press", ("Kuhn, T. S.",)),
    'J. Devlin and K. Lee, "BERT: Pre-training of rivers," in Proc. NAACL, 2019, pp. 4171–4186.': (
        "BERT: Pre-training of rivers", 2019, "Proc. NAACL", ("J. Devlin", "K. Lee")),
    "He, K., Zhang, X.: Deep residual rivers for all. In: CVPR. pp. 770–778 (2016)": (
        "Deep residual rivers for all", 2016, "CVPR", ("He, K.", "Zhang, X.")),
    "D. P. Kingma and J. Ba. Adam: A method for rivers. In ICLR, 2015.": (
        "Adam: A method for rivers", 2015, "ICLR", ("D. P. Kingma", "J. Ba")),
    "World Tide Organisation. (2020). Global strategy on tides 2020-2025. WTO.": (
        "Global strategy on tides 2020-2025", 2020, "WTO", ("World Tide Organisation",)),
    "Smith J. Is this a river? J Foo. 2001;3:4-5. PMID: 123456.": (
        "Is this a river?", 2001, "J Foo", ("Smith J.",)),
    "B. P. Abbott et al. (Wave Collaboration), Phys. Rev. Lett. 116, 061102 (2016).": (
        None, 2016, None, ()),
    "王伟, 李静. 河流泥沙的测量方法基于卫星图像[J]. 观测学报, 2019, 66(10): 646-676.": (
        "河流泥沙的测量方法基于卫星图像", 2019, "观测学报", ("王伟", "李静")),
    "Соколова А., Иванов Б. Методы измерения наносов // Вестник. - 2019. - Т. 3.": (
        "Методы измерения наносов", 2019, "Вестник", ("Соколова А.", "Иванов Б.")),
    "Gunnar Abara. 1998. Sampling of seeds, 1950-1990. Open Hydrology, 3:1998-2003.": (
        "Sampling of seeds, 1950-1990", 1998, "Open Hydrology", ("Gunnar Abara",)),
}  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_is_understood_whatever_its_style(entry: str):
    found = parse_reference(entry)
    assert (found.title, found.year, found.venue, found.authors) == ENTRIES[entry]


def lines(*texts: str) -> list[Line]:
    return [Line(text) for text in texts]


def test_words_and_links_that_lines_broke_are_whole_again():
    assert joined(["A meas-", "urement of well-", "Known rivers"]) == (
        "A measurement of well-Known rivers"
    )
    assert joined(["doi:10.1000/", "abc.5"]) == "doi:10.1000/abc.5"
    assert joined(["see https://doi.org/10.1000/abc.", "123.45"]) == (
        "see https://doi.org/10.1000/abc.123.45"
    )
    assert joined(["doi:10.1000/abc", "Accessed in spring"]) == "doi:10.1000/abc Accessed in spring"


@pytest.mark.parametrize(
    ("at", "after"),
    [
        *((at, "") for at in ("020<", "<", "0130", "DNF", "2.0", "CO")),
        *((at, " Seen on 3 May 2020.") for at in ("<", "0130", "DNF", "2.0", "CO")),
    ],
)
def test_a_doi_that_a_line_broke_within_its_angle_brackets_is_whole_again(at: str, after: str):
    """What stands before them is the same for every article of an issue."""
    doi = "10.1175/1520-0469(1963)020<0130:DNF>2.0.CO;2"
    first, rest = doi[: doi.index(at)], doi[doi.index(at) :]
    entry = joined([f"E. Lorenz: Slow rivers. https://doi.org/{first}", f"{rest}.{after}"])
    assert parse_reference(entry).doi == doi.lower()


def test_what_pages_repeat_is_no_text():
    pages = [
        Line(text, None, page)
        for page in range(4)
        for text in ("Journal of Tides 12", "abcd"[page] * 3, "efgh"[page] * 3, "x", "y", str(page))
    ]
    kept = [line.text for line in without_furniture(pages)]
    assert "Journal of Tides 12" not in kept
    assert not [text for text in kept if text.isdigit()]
    assert "ccc" in kept


@pytest.mark.parametrize(
    "text",
    ["References", "REFERENCES", "7. References", "V. BIBLIOGRAPHY", "## Works Cited ##",
     "R E F E R E N C E S", "Список литературы", "参考文献", "Literature cited:"],
)  # fmt: skip
def test_headings_are_known(text: str):
    assert is_heading(text)


@pytest.mark.parametrize("text", ["the references", "References are given below.", "", "5."])
def test_prose_is_no_heading(text: str):
    assert not is_heading(text)


def test_the_section_is_the_last_and_ends_where_something_else_begins():
    found = reference_section(
        lines("References", "see below", "Body", "References", "[1] A", "[2] B", "Appendix A", "C")
    )
    assert [line.text for line in found] == ["[1] A", "[2] B"]


def test_entries_without_a_heading_are_found_by_their_numbers():
    found = reference_section(lines("Body", "[1] One", "[2] Two", "more", "[3] Three"))
    assert len(found) == 4
    assert not reference_section(lines("Body", "[1] only", "prose"))


def test_a_number_out_of_turn_belongs_to_the_text():
    found = split_entries(
        lines("1. Roe, A. First of the works. Letters", "12. pp. 3-4, and the rest",
              "2. Doe, B. Second of the works. Letters"),
        is_wrapped=True,
    )  # fmt: skip
    assert len(found) == 2
    assert found[0].endswith("Letters 12. pp. 3-4, and the rest")


def test_bibtex_is_read_with_its_braces_accents_and_ids():
    (found,) = bibtex_references(
        "@comment{x, y={z}} @article{key,\n title = {{Fl{\\\"u}sse} and {\\'E}tudes: a {S}tudy},\n"
        ' author = "M{\\"u}ller, Ada and Roe, B. and others", year = 2019, journal={J. Flow},\n'
        " eprint = {2101.00001}, archivePrefix = {arXiv}, doi = {https://doi.org/10.1000/X}}"
    )
    assert (found.title, found.year, found.venue) == ("Flüsse and Études: a Study", 2019, "J. Flow")
    assert found.authors == ("Müller, Ada", "Roe, B.")
    assert (found.doi, found.arxiv_id) == ("10.1000/x", "2101.00001")
    assert plain_latex(r"\emph{a}~b \& \ss{} ``c''") == "a b & ß “c”"


TEXTS = st.text(
    alphabet=st.one_of(
        st.sampled_from("aA. ,;:()[]{}\"“”‘’'-–\\/0123456789&éЖ文。@%\n"), st.characters()
    ),
    max_size=400,
)


@given(TEXTS)
@example("A" * 3000)
@example("A. " * 900)
@example("a,b" * 900)
@example("(" * 900 + "2019")
@example("“" * 900)
@example("[" * 900 + "]" * 900)
@example("Aa Bb, " * 400)
@example("1998 " * 500)
@example("https://" * 300)
@example("10.1000/" * 300)
@settings(deadline=None, max_examples=60)
def test_any_entry_gives_a_reference_within_bounds_and_soon(text: str):
    started = time.process_time()
    found = parse_reference(text)
    assert time.process_time() - started < 1.0
    assert found.title is None or 0 < len(found.title) <= 500
    assert found.year is None or 1500 <= found.year < 2100
    assert len(found.authors) <= 50


def test_an_entry_of_nothing_but_abbreviations_takes_no_time_to_speak_of():
    """A publisher may deposit a thousand of them, which are read one after the other."""
    took = []
    for _ in range(5):
        started = time.process_time()
        assert parse_reference("A. A. A. pp. " * 160).title is None
        took.append(time.process_time() - started)
    assert min(took) < 0.12


@given(st.lists(st.builds(Line, TEXTS, st.one_of(st.none(), st.floats(0, 600)), st.integers(0, 3))))
@settings(deadline=None, max_examples=25)
def test_any_lines_give_references(some: list[Line]):
    for is_wrapped in (True, False):
        found = references_of_lines([Line("References"), *some], is_wrapped=is_wrapped)
        assert len(found) <= 1000


@given(TEXTS)
@example("@a{b,c={" + "{" * 3000)
@example("@a{b," * 500)
@settings(deadline=None, max_examples=40)
def test_any_text_is_read_as_bibtex_or_not(text: str):
    assert isinstance(bibtex_references("@article{k, title={" + text), list)
    assert isinstance(plain_latex(text), str)
