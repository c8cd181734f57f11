"""How well and how fast references of PDFs are read: 16 styles and layouts, other works each round.

The figures say what our own reading gives, without any service. The documents are made here, in
well-kept styles: those of the world are worse set, so these are upper bounds.
"""

from __future__ import annotations

import itertools
import time

from indexer.citations.extraction import references_of_lines
from indexer.extraction.pdf import pdf_lines
from tests.bench.benchmark import Benchmark, Contender, Figures, Session
from tests.documents.labelled import labelled_documents
from tests.documents.scoring import FIELDS, Score, score


def benchmarks(session: Session) -> list[Benchmark]:
    """One benchmark; each round has a labelled set of its own."""
    seeds = itertools.count(1)

    def run(_: Session) -> Figures:
        documents = labelled_documents(next(seeds))
        started = time.perf_counter()
        read = [references_of_lines(pdf_lines(each.data), is_wrapped=True) for each in documents]
        seconds = time.perf_counter() - started
        total = Score()
        for document, references in zip(documents, read, strict=True):
            total.add(score(document, references))
        figures: Figures = {"per_s": sum(map(len, read)) / seconds}
        for name in ("work", *FIELDS):
            figures[f"{name}_precision"] = total.precision(name)
            figures[f"{name}_recall"] = total.recall(name)
        return figures

    return [
        Benchmark(
            name="citations",
            title="references of PDFs",
            contenders=[Contender("ours", run)],
            rounds=1 if session.is_quick else 3,
            targets=["works and identifiers >= 0.97", "titles >= 0.95"],
        )
    ]
