"""The repo of the graph's authority: nodes, and edges between them, as a corpus of one account.

The account is that of the settings' default: a daemon with another one rebuilds its index first.
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import asdict
from pathlib import Path

from tests.bench.corpus import FORMAT, SEED, Corpus
from tests.bench.records_scale import REGISTRY
from tests.bench.repo import BenchRepo, Clock
from tests.bench.signing import k256_signer
from tests.bench.world import HISTORY_US, START_US, start_of
from tests.devnet.cbor import Value, from_json
from tests.devnet.records import realistic_record

NODE, EDGE = "pub.chive.graph.node", "pub.chive.graph.edge"
EDGE_SHARE = 0.6


class GraphWriter:
    """Makes nodes and edges; an edge joins two nodes that were made before it."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._nodes: list[str] = []  # URIs

    def pick(self, *, in_scope: bool) -> str:
        """The collection of the next record: nothing of the authority's is out of scope."""
        assert in_scope
        return EDGE if len(self._nodes) > 1 and self._rng.random() < EDGE_SHARE else NODE

    def write(self, did: str, collection: str, rkey: str, at: str) -> Value:
        """A record of `collection`, created at the datetime `at`."""
        record = realistic_record(self._rng, collection, did=did) | {"id": rkey, "createdAt": at}
        if collection == NODE:
            self._nodes.append(f"at://{did}/{collection}/{rkey}")
        else:
            record["sourceUri"], record["targetUri"] = self._rng.sample(self._nodes, 2)
        return from_json(record)


def ensure_graph(root: Path, records: int) -> Corpus:
    """The corpus of an authority with so many nodes and edges below `root`, which has no frames."""
    directory = root / f"corpus-{FORMAT}-graph{records}-{SEED}"
    if not (directory / "manifest.json").exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        rng = random.Random(SEED)
        signer = k256_signer(f"{SEED}:graph")
        repo = BenchRepo(REGISTRY.governance_did, signer, GraphWriter(rng), Clock(START_US), rng)
        blocks = repo.fill(records, in_scope_share=1.0, since_us=START_US - HISTORY_US)
        start = start_of(repo, 0)
        repo.write_car(directory / start.car, blocks)
        manifest = {"format": FORMAT, "seed": SEED, "repos": [asdict(start)]}
        (directory / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return Corpus.load(directory)
