"""Operations at full speed beside a stream that is followed: what they cost the events of it.

The contenders follow the same stream, the first with nothing else to do, so that the machine's own
noise is seen in the same run. Latencies are those of tracked events, from when they were due to be
sent to when their rows could be read, while the operation ran. `units` and `records` say what it
did meanwhile, `standstill_s` for how long neither of its counters moved, and `cancel_s` how long it
took to end when it was cancelled at the end of the stream. fullReindex has a benchmark of its own.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from math import inf
from pathlib import Path

from indexer.citations.extraction import EXTRACTOR_VERSION
from indexer.model import Scope
from tests.bench.benchmark import Benchmark, Contender, Figures, Session
from tests.bench.corpus import SEED, Corpus, Size, ensure_corpus
from tests.bench.daemon import await_admin, filled_database, open_daemon, open_hosts
from tests.bench.documents import add_eprints, write_documents
from tests.bench.feed import open_feed
from tests.bench.following import PACED_POLL_S, latencies_of, watch_cursor
from tests.bench.graph import ensure_graph
from tests.bench.hosts import LISTED_REV, listed_did
from tests.bench.operating import Operating
from tests.bench.process import read_usage
from tests.bench.stream import MIXES

RATE = 2000.0
MIX = MIXES["mix1"]
QUICK_S, FULL_S = 4, 25
QUICK_LISTED, FULL_LISTED = 3_000, 40_000
QUICK_GRAPH, FULL_GRAPH = 1_000, 20_000
QUICK_EPRINTS, FULL_EPRINTS = 20, 400
QUICK_DOCUMENT_SETS, FULL_DOCUMENT_SETS = 1, 4
IDLE, DID_SYNC, FRESHNESS, PDS_SCAN = "nothing", "didSync", "freshnessScan", "pdsScan"
GOVERNANCE, CITATIONS, FIRST_SCAN = "governanceSync", "citationExtraction", "first scan"
CONTENDERS = (IDLE, DID_SYNC, FRESHNESS, PDS_SCAN, GOVERNANCE, CITATIONS, FIRST_SCAN)
FAR_FUTURE = 1e12

_REPO = """
INSERT INTO repo (did, state, account_status, account_at, pds_url, identity_at, rev, data, scope_id,
                  wanted, claimed, claim, priority, retry_at, attempts, desyncs, synced_at,
                  verified_at, tracked_since, updated_at)
VALUES (?, 'active', 'active', 0, ?, ?, ?, 'bafy', ?, 0, 0, 0, 2, 0, 0, 0, 0, 0, '2026', '2026')
"""
# No row may have been verified in the future: it counts then as never verified.
_VERIFIED = """
CREATE TRIGGER verified AFTER INSERT ON operation WHEN new.type = 'freshnessScan' BEGIN
    UPDATE repo SET verified_at = new.started_at WHERE id <= {last_id};
END
"""
_SETTLED = """
INSERT INTO citation_extraction
    (record_id, document_cid, version, is_complete, attempts, outcome, extracted_at)
SELECT rowid, document_blob_cid, ?, 1, 1, 'unreadable', '2026' FROM eprint_submission
"""


@dataclass(frozen=True, slots=True)
class _Network:
    """What hosts have beside the repos of the stream."""

    beside: Corpus
    listed: int = 0  # repos that never change and that we hold, in the list of the host
    blobs: Path | None = None
    documents: dict[bytes, int] | None = None  # CID -> size, of what is in `blobs`


def benchmarks(session: Session) -> list[Benchmark]:
    """One benchmark; the first contender is the daemon at rest."""
    return [
        Benchmark(
            name="supplement",
            title=f"{MIX.title} at {RATE:,.0f}/s beside",
            contenders=[
                Contender(name, lambda session, name=name: beside(session, name))
                for name in CONTENDERS
            ],
            rounds=1 if session.is_quick else 2,
            targets=[
                "p99 <= 100 ms beside any operation",
                "a counter moves every second",
                "a cancel takes <= 2 s",
            ],
        )
    ]


def beside(session: Session, kind: str) -> Figures:
    """Follow the stream while operations of a type run one after the other."""
    events = int(RATE * (QUICK_S if session.is_quick else FULL_S))
    with session.run_directory("supplement") as directory:
        network = _network(session, directory, kind)
        with (
            open_hosts(
                session.corpus, directory,
                beside=network.beside, listed=network.listed, blobs=network.blobs,
            ) as hosts_url,
            open_feed(session.corpus, MIX, events, rate=RATE, directory=directory) as feed,
            open_daemon(
                directory, relay_url=feed.url, hosts_url=hosts_url,
                start_from=_store(session, directory, hosts_url, network),
                scans_first=kind == FIRST_SCAN,
            ) as daemon,
        ):  # fmt: skip
            feed.await_client()
            await_admin(daemon)
            operating = Operating(daemon, _load(kind, hosts_url, network.beside))
            before = read_usage(daemon.process.pid)
            first = feed.start()
            with operating.during():
                sightings = watch_cursor(daemon, feed.stream.seq_last, PACED_POLL_S)
                after = read_usage(daemon.process.pid)
            until = inf if kind == IDLE else operating.ended
            figures = latencies_of(feed, first, RATE, sightings, until=until)
            seconds = sightings[-1][0] - first
            figures |= {"seconds": seconds, "cores": (after.cpu_s - before.cpu_s) / seconds}
            if kind != IDLE:
                figures |= operating.figures()
            daemon.stop()
            return figures


def _load(kind: str, hosts_url: str, others: Corpus) -> Iterator[list[dict[str, str]]]:
    """What to trigger at once, then, when that has ended, next; each of the other repos once."""
    match kind:
        case "didSync":
            yield [{"type": kind, "did": repo.did} for repo in others.repos]
        case "governanceSync" | "citationExtraction":
            yield [{"type": kind}]
        case "first scan":
            yield []
        case "freshnessScan":
            while True:
                yield [{"type": kind}]
        case "pdsScan":
            while True:
                yield [{"type": kind, "pdsUrl": hosts_url}]


def _network(session: Session, directory: Path, kind: str) -> _Network:
    is_quick = session.is_quick
    if kind == GOVERNANCE:
        return _Network(ensure_graph(session.root, QUICK_GRAPH if is_quick else FULL_GRAPH))
    others = _others(session)
    if kind in {FRESHNESS, PDS_SCAN}:
        return _Network(others, listed=QUICK_LISTED if is_quick else FULL_LISTED)
    if kind == CITATIONS:
        blobs = directory / "blobs"
        sets = QUICK_DOCUMENT_SETS if is_quick else FULL_DOCUMENT_SETS
        return _Network(others, blobs=blobs, documents=write_documents(blobs, sets))
    return _Network(others)


def _others(session: Session) -> Corpus:
    """Repos that nobody follows yet, all of their records in scope."""
    size = Size(
        name="others-quick" if session.is_quick else "others",
        repos=4 if session.is_quick else 40,
        foreign_repos=1,
        records=(500, 500) if session.is_quick else (2000, 2000),
        foreign_frames=1,
        mixed_frames=0,
        scoped_frames=0,
        in_scope_share=1.0,
    )
    return ensure_corpus(session.root, size, seed=SEED + 1)  # other accounts than those followed


def _store(session: Session, directory: Path, hosts_url: str, network: _Network) -> Path:
    """The filled store with repos that are equal to what the host lists, or with eprints.

    Those of the stream count as verified since any scan began, because their host here serves their
    first state only.
    """
    path = directory / "start.db"
    shutil.copyfile(filled_database(session), path)
    scope_id = Scope(("pub.chive.*",)).scope_id
    dids = [listed_did(number) for number in range(network.listed)]
    if network.documents is not None:
        dids = [repo.did for repo in network.beside.repos]
    with closing(sqlite3.connect(path)) as connection, connection:
        last_id = connection.execute("SELECT max(id) FROM repo").fetchone()[0]
        connection.execute(_VERIFIED.format(last_id=last_id))
        connection.executemany(
            _REPO, ((did, hosts_url, FAR_FUTURE, LISTED_REV, scope_id) for did in dids)
        )
        ids = dict(connection.execute("SELECT did, id FROM repo"))
    if network.documents is not None:
        _settle_documents(path)
        count = QUICK_EPRINTS if session.is_quick else FULL_EPRINTS
        repos = {did: ids[did] for did in dids}
        asyncio.run(add_eprints(path, repos, network.documents, count))
    return path


def _settle_documents(path: Path) -> None:
    """The eprints of the stream count as read: no host has their documents."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(_SETTLED, (str(EXTRACTOR_VERSION),))
