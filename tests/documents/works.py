"""Works that nobody has written: titles, names, venues and identifiers from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

GIVEN = ("Ada", "Bruno", "Chiara", "Dmitri", "Elif", "Farid", "Grete", "Hana", "Ivo", "Jun",
         "Kofi", "Lena", "Marta", "Nadia", "Oskar", "Priya", "Quentin", "Rosa", "Søren", "Tomás",
         "Uma", "Viktor", "Wen", "Xenia", "Yusuf", "Zoë")  # fmt: skip
SURNAMES = ("Abara", "Bergström", "Castellanos", "Dvořák", "Ekwueme", "Fontaine", "García-Luna",
            "Hoffmann", "Ivanova", "Jørgensen", "Kaplan", "Lindqvist", "Müller", "Nakamura",
            "O'Brien", "Petrov", "Quispe", "Rahman", "Schäfer", "Tanaka", "van der Berg", "Weiss",
            "Yamada", "Zhang")  # fmt: skip
QUALITIES = ("Adaptive", "Bounded", "Causal", "Distributed", "Empirical", "Fast", "Hierarchical",
             "Incremental", "Long-term", "Multiscale", "Noisy", "Probabilistic", "Robust", "Sparse")  # fmt: skip
THINGS = ("estimation", "modelling", "inference", "monitoring", "reconstruction", "simulation",
          "classification", "forecasting", "sampling", "control", "annotation", "measurement")  # fmt: skip
SUBJECTS = ("coral growth rates", "glacier runoff", "lexical borrowing", "protein folding pathways",
            "urban soundscapes", "peer review", "seed dispersal", "galaxy rotation curves",
            "phonological change", "supply networks", "bird migration", "river sediments",
            "argument structure", "sleep cycles", "market volatility", "cloud formation")  # fmt: skip
MEANS = ("with graph kernels", "from satellite images", "under label noise", "using field data",
         "by message passing", "in low-resource settings", "across three continents",
         "without supervision", "over sparse grids", "and its limits")  # fmt: skip
JOURNALS = (("Journal of Marsh Ecology", "J. Marsh Ecol."), ("Annals of Applied Phonetics", "Ann. Appl. Phon."),
            ("Transactions on Quiet Systems", "Trans. Quiet Syst."), ("Letters in Field Statistics", "Lett. Field Stat."),
            ("Review of Small Markets", "Rev. Small Mark."), ("Open Hydrology", "Open Hydrol."))  # fmt: skip
ORGANISATIONS = ("National Bureau of Tides", "World Council for Quiet")


@dataclass(frozen=True)
class Work:
    """A cited work, and so what a reader of the citation should find."""

    title: str
    authors: tuple[tuple[str, str], ...]  # (given, surname)
    year: int
    venue: str
    short_venue: str
    volume: int
    issue: int
    pages: tuple[int, int]
    doi: str | None = None
    arxiv_id: str | None = None


def works(rng: random.Random, count: int, *, identified: float = 0.6) -> list[Work]:
    """So many different works; a share of them with a DOI or an arXiv id."""
    found: dict[str, Work] = {}
    while len(found) < count:
        work = _work(rng, identified)
        found.setdefault(work.title, work)
    return list(found.values())


def _work(rng: random.Random, identified: float) -> Work:
    title = f"{rng.choice(QUALITIES)} {rng.choice(THINGS)} of {rng.choice(SUBJECTS)} {rng.choice(MEANS)}"
    if rng.random() < 0.2:
        title = f"{rng.choice(SUBJECTS).capitalize()}: {title[0].lower()}{title[1:]}"
    kind = rng.random()
    if kind < 0.1:
        title = f"Do {rng.choice(SUBJECTS)} matter? {title}"
    elif kind < 0.2:
        title = f"{title} in the U.S. vs. {rng.choice(SUBJECTS)}, {rng.randint(1950, 1989)}–1990"
    people: tuple[tuple[str, str], ...] = tuple(
        (rng.choice(GIVEN), surname)
        for surname in rng.sample(SURNAMES, rng.choice((1, 2, 2, 3, 4)))
    )
    if rng.random() < 0.08:
        people = (("", rng.choice(ORGANISATIONS)),)
    year = rng.randint(1968, 2025)
    journal, short = rng.choice(JOURNALS)
    first = rng.randint(1, 900)
    has_id = rng.random() < identified
    is_preprint = has_id and year >= 2008 and rng.random() < 0.35
    return Work(
        title=title,
        authors=people,
        year=year,
        venue=journal,
        short_venue=short,
        volume=rng.randint(1, 80),
        issue=rng.randint(1, 12),
        pages=(first, first + rng.randint(3, 30)),
        doi=f"10.{rng.randint(1000, 99999)}/{rng.choice(('jme', 'aap', 's'))}.{year}.{rng.randint(100, 99999)}"
        if has_id and not is_preprint
        else None,
        arxiv_id=f"{year % 100:02}{rng.randint(1, 12):02}.{rng.randint(1000, 9999):05}"[
            : 9 if year < 2015 else 10
        ]
        if is_preprint
        else None,
    )
