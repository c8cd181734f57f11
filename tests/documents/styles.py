"""How citation styles write one work. Each returns the entry without a label."""

from __future__ import annotations

from collections.abc import Callable

from tests.documents.works import Work

Style = Callable[[Work], str]


def initials(given: str, point: str = ".") -> str:
    return f"{given[0]}{point}"


def _joined(names: list[str], last: str) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + last + names[-1]


def _surname_first(work: Work, *, last: str = ", & ", point: str = ".", sep: str = ", ") -> str:
    return _joined(
        [f"{name}{sep}{initials(given, point)}" if given else name for given, name in work.authors],
        last,
    )


def _initials_first(work: Work, last: str = ", and ") -> str:
    names = [f"{initials(given)} {name}" if given else name for given, name in work.authors]
    return _joined(names, last.removeprefix(",") if len(names) == 2 else last)


def _full(work: Work) -> str:
    (given, surname), *others = work.authors
    first = f"{surname}, {given}" if given else surname
    return _joined([first, *(f"{each} {name}" for each, name in others)], ", and ")


def _id(work: Work, doi: str = "https://doi.org/{}", arxiv: str = "arXiv:{}") -> str:
    if work.doi:
        return " " + doi.format(work.doi)
    return " " + arxiv.format(work.arxiv_id) if work.arxiv_id else ""


def _pages(work: Work) -> str:
    return f"{work.pages[0]}–{work.pages[1]}"


def apa(work: Work) -> str:
    return (
        f"{_surname_first(work)} ({work.year}). {work.title}. {work.venue}, {work.volume}({work.issue}),"
        f" {_pages(work)}.{_id(work)}"
    )


def ieee(work: Work) -> str:
    where = (
        f"arXiv preprint arXiv:{work.arxiv_id}, {work.year}"
        if work.arxiv_id
        else f"{work.short_venue}, vol. {work.volume}, no. {work.issue}, pp. {_pages(work)}, {work.year}"
    )
    doi = f", doi: {work.doi}" if work.doi else ""
    return f"{_initials_first(work)}, “{work.title},” {where}{doi}."


def vancouver(work: Work) -> str:
    names = ", ".join(f"{name} {given[:1]}".strip() for given, name in work.authors)
    return (
        f"{names}. {work.title}. {work.short_venue.replace('.', '')}. {work.year};{work.volume}({work.issue}):"
        f"{_pages(work)}.{_id(work, 'doi: {}')}"
    )


def nature(work: Work) -> str:
    return (
        f"{_surname_first(work, last=' & ')} {work.title}. {work.short_venue} {work.volume}, {_pages(work)}"
        f" ({work.year}).{_id(work)}"
    )


def acl(work: Work) -> str:
    text = _joined([f"{given} {name}".strip() for given, name in work.authors], ", and ")
    where = (
        f"arXiv preprint arXiv:{work.arxiv_id}"
        if work.arxiv_id
        else f"{work.venue}, {work.volume}:{_pages(work)}"
    )
    return f"{text}. {work.year}. {work.title}. {where}.{'' if work.arxiv_id else _id(work)}"


def acm(work: Work) -> str:
    text = _joined([f"{given} {name}".strip() for given, name in work.authors], " and ")
    return (
        f"{text}. {work.year}. {work.title}. {work.venue} {work.volume}, {work.issue} ({work.year}),"
        f" {_pages(work)}.{_id(work)}"
    )


def chicago(work: Work) -> str:
    return (
        f"{_full(work)}. {work.year}. “{work.title}.” {work.venue} {work.volume} ({work.issue}):"
        f" {_pages(work)}.{_id(work)}."
    )


def mla(work: Work) -> str:
    names = _full(work)
    return (
        f"{names}. “{work.title}.” {work.venue}, vol. {work.volume}, no. {work.issue}, {work.year},"
        f" pp. {_pages(work)}.{_id(work)}."
    )


def harvard(work: Work) -> str:
    return (
        f"{_surname_first(work, last=' and ')}, {work.year}. {work.title}. {work.venue}, {work.volume}({work.issue}),"
        f" pp.{_pages(work)}.{_id(work, 'Available at: https://doi.org/{}')}"
    )


def springer(work: Work) -> str:
    return (
        f"{_surname_first(work, last=', ')}: {work.title}. {work.short_venue} {work.volume}({work.issue}), {_pages(work)}"
        f" ({work.year}).{_id(work)}"
    )


def physics(work: Work) -> str:
    """Physicists leave titles out."""
    return (
        f"{_initials_first(work, ', and ')}, {work.short_venue} {work.volume}, {work.pages[0]} ({work.year})"
        f"{', arXiv:' + work.arxiv_id if work.arxiv_id else ''}{_id(work, 'doi:{}') if work.doi else ''}."
    )


def gost(work: Work) -> str:
    names = ", ".join(f"{surname} {given[0]}." for given, surname in work.authors)
    return (
        f"{names} {work.title} // {work.venue}. – {work.year}. – Т. {work.volume}. – № {work.issue}. –"
        f" С. {_pages(work)}.{_id(work, 'DOI: {}')}"
    )


def chinese(work: Work) -> str:
    names = ", ".join(f"{surname}{given}" for given, surname in work.authors)
    return (
        f"{names}. {work.title}[J]. {work.venue}, {work.year}, {work.volume}({work.issue}): {_pages(work)}."
        f"{_id(work, 'DOI:{}')}"
    )
