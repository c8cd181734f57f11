"""Eprints in an index whose documents a host can serve: PDFs of the labelled set, many of them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from indexer.model import Source, utc_text
from indexer.records.projection import SEARCH
from storage.database import open_database
from storage.projections import Projections
from storage.records import RecordTable, RowWrite
from tests.bench.content import SUBMISSION, Writer
from tests.bench.records_scale import REGISTRY, REV, START, prepare_block
from tests.bench.repo import tid_at
from tests.devnet.cbor import RAW, Link, cid_of, cid_text, encode
from tests.documents.labelled import labelled_documents

EPRINTS_AT_ONCE = 50


def write_documents(folder: Path, sets: int) -> dict[bytes, int]:
    """So many labelled sets in a folder, each document under its CID; CID -> size in bytes."""
    folder.mkdir(parents=True)
    sizes = {}
    for seed in range(1, sets + 1):
        for document in labelled_documents(seed):
            cid = cid_of(document.data, RAW)
            (folder / cid_text(cid)).write_bytes(document.data)
            sizes[cid] = len(document.data)
    return sizes


async def add_eprints(
    database_path: Path, repos: Mapping[str, int], documents: Mapping[bytes, int], count: int
) -> None:
    """Write eprints of accounts (DID -> repo id) into an index, whose documents are these in turn.

    Through the code that every path ends in; they are in no signed repo.
    """
    rng = random.Random(1)
    writer, cids, dids = Writer(rng), list(documents), list(repos)
    projections = Projections(REGISTRY.types, SEARCH, basis=REGISTRY.governance_did)
    table = RecordTable(projections)
    async with open_database(database_path) as database:
        await database.write(partial(projections.install, judged_by=REGISTRY.lexicon_id))
        for first in range(0, count, EPRINTS_AT_ONCE):
            writes = {}
            for number in range(first, min(first + EPRINTS_AT_ONCE, count)):
                did, cid = dids[number % len(dids)], cids[number % len(cids)]
                at = START + number
                path = f"{SUBMISSION}/{tid_at(int(at * 1e6))}"
                value = writer.write(did, *path.split("/"), utc_text(at))
                value["document"] |= {"ref": Link(cid), "size": documents[cid]}
                record = prepare_block(did, path, encode(value))
                writes[repos[did], path] = RowWrite(did, REV, record)
            await database.write(
                partial(
                    table.write,
                    writes=writes,
                    source=Source.BACKFILL,
                    at=utc_text(START),
                    now=START,
                )
            )
