"""Extraction of citations, wired: documents' processes, and the services in the settings."""

from __future__ import annotations

from contextlib import AsyncExitStack

from indexer.clock import Clock
from indexer.extraction.process import DocumentReader
from indexer.metrics import Metrics
from indexer.network.blobs import BlobNetwork
from indexer.network.citation_services import Crossref, Grobid, SemanticScholar
from indexer.network.http import HttpClient
from indexer.network.pacing import Pacing
from indexer.operations.citation_extraction import CitationExtraction
from indexer.operations.citation_sources import Sources
from indexer.settings import Settings
from storage.citations import CitationStore

GROBID_PER_S = 5.0
CROSSREF_PER_S = 3.0
"""The public pool is given 5 a second for single works and fewer for lists."""
SEMANTIC_SCHOLAR_PER_S = 1 / 3
"""100 in five minutes without a key."""


async def open_sources(
    settings: Settings, clock: Clock, metrics: Metrics, stack: AsyncExitStack, *, user_agent: str
) -> Sources:
    """The services that are on; `stack` closes their sessions."""
    citations = settings.citations
    if citations.mailto is not None:
        user_agent += f" mailto:{citations.mailto}"

    async def client(url: str, rate: float) -> HttpClient:
        """Each with a pacing of its own, and exempt from the rules for one origin alone."""
        return await stack.enter_async_context(
            HttpClient(
                user_agent=user_agent,
                allow_private=settings.network.allow_private_hosts,
                exempt=[url],
                pacing=Pacing(clock=clock, rate=rate, concurrency=1),
                clock=clock,
                metrics=metrics,
            )
        )

    grobid = crossref = scholar = None
    if url := citations.grobid_url:
        grobid = Grobid(await client(url, GROBID_PER_S), url)
    if url := citations.crossref_url:
        crossref = Crossref(await client(url, CROSSREF_PER_S), url, mailto=citations.mailto)
    if url := citations.semantic_scholar_url:
        scholar = SemanticScholar(await client(url, SEMANTIC_SCHOLAR_PER_S), url)
    return Sources(grobid=grobid, crossref=crossref, semantic_scholar=scholar)


def citation_extraction(
    settings: Settings, extractions: CitationStore, blobs: BlobNetwork, sources: Sources
) -> CitationExtraction:
    """The type of operation."""
    workers = settings.citations.workers
    documents = DocumentReader(processes_max=workers)
    return CitationExtraction(extractions, blobs, documents, sources, workers=workers)
