"""What one would write first: `python -m tests.bench.sdk_pipeline --relay URL --database FILE`.

The documented way of the `atproto` SDK, defaults everywhere: `AsyncFirehoseSubscribeReposClient`,
`parse_subscribe_repos_message`, `CAR.from_bytes`, `AtUri`, `models.get_or_create`; an aiosqlite
database in its default journal mode, one table of records with an FTS5 index, one commit for each
event that has something in scope. Nothing is verified. Kinder than the SDK's own example in one
point: models are only built of records in scope. (The SDK has none for `pub.chive.*` and answers
None; the plain dictionary is stored then.)

Prints `done` once the event with `--last` as its seq is handled, and leaves at a line on stdin, so
that what it used can be read before it is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import Any

import aiosqlite
from atproto import (
    CAR,
    CID,
    AsyncFirehoseSubscribeReposClient,
    AtUri,
    firehose_models,
    models,
    parse_subscribe_repos_message,
)
from atproto_client.models import get_model_as_dict

SCOPE = "pub.chive."
SCHEMA = """
CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    uri TEXT NOT NULL UNIQUE,
    did TEXT NOT NULL,
    collection TEXT NOT NULL,
    cid TEXT NOT NULL,
    value TEXT NOT NULL
);
CREATE VIRTUAL TABLE search USING fts5(text);
"""


def plain_text(value: object) -> str:
    """All strings of a record, for the search."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return " ".join(plain_text(part) for part in value.values())
    if isinstance(value, list):
        return " ".join(plain_text(part) for part in value)
    return ""


def link(value: bytes) -> dict[str, str]:
    """The JSON of what the SDK leaves as bytes, which are the CIDs of blobs here."""
    return {"$link": str(CID.decode(value))}


class Indexer:
    """Writes the in-scope records of one commit at a time."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database
        self.events = 0
        self.commits = 0

    async def handle(self, message: firehose_models.MessageFrame) -> int:
        """Index one message; its seq."""
        self.events += 1
        event = parse_subscribe_repos_message(message)
        if isinstance(event, models.ComAtprotoSyncSubscribeRepos.Commit) and event.blocks:
            await self._index(event)
        return int(event.seq)

    async def _index(self, commit: models.ComAtprotoSyncSubscribeRepos.Commit) -> None:
        car = CAR.from_bytes(commit.blocks)
        is_changed = False
        for op in commit.ops:
            uri = AtUri.from_str(f"at://{commit.repo}/{op.path}")
            if not uri.collection.startswith(SCOPE):
                continue
            is_changed = True
            if op.action != "create":
                await self._remove(str(uri))
            if op.cid is not None and op.action != "delete":
                raw = car.blocks.get(op.cid)
                if raw is not None:
                    await self._insert(uri, str(op.cid), raw)
        if is_changed:
            await self._database.commit()
            self.commits += 1

    async def _insert(self, uri: AtUri, cid: str, raw: dict[str, Any]) -> None:
        record = models.get_or_create(raw, strict=False)
        value = json.dumps(raw if record is None else get_model_as_dict(record), default=link)
        cursor = await self._database.execute(
            "INSERT INTO records (uri, did, collection, cid, value) VALUES (?, ?, ?, ?, ?)",
            (str(uri), uri.host, uri.collection, cid, value),
        )
        await self._database.execute(
            "INSERT INTO search (rowid, text) VALUES (?, ?)",
            (cursor.lastrowid, plain_text(raw)),
        )

    async def _remove(self, uri: str) -> None:
        await self._database.execute(
            "DELETE FROM search WHERE rowid = (SELECT id FROM records WHERE uri = ?)", (uri,)
        )
        await self._database.execute("DELETE FROM records WHERE uri = ?", (uri,))


def tell(**facts: object) -> None:
    """One line to whoever started us."""
    print(json.dumps(facts), flush=True)


async def run(relay_url: str, path: str, seq_last: int) -> None:
    """Index until the last event."""
    async with aiosqlite.connect(path) as database:
        await database.executescript(SCHEMA)
        indexer = Indexer(database)
        client = AsyncFirehoseSubscribeReposClient(base_uri=f"{relay_url}/xrpc")
        failures: list[str] = []

        async def on_message(message: firehose_models.MessageFrame) -> None:
            if await indexer.handle(message) == seq_last:
                tell(done=time.monotonic(), events=indexer.events, commits=indexer.commits)
                sys.stdin.readline()
                await client.stop()

        async def on_failure(error: BaseException) -> None:
            failures.append(repr(error))
            await client.stop()

        await client.start(on_message, on_failure)
        tell(left=time.monotonic())
        if failures:
            sys.exit(failures[0])


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--relay", required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--last", type=int, required=True)
    arguments = parser.parse_args()
    asyncio.run(run(arguments.relay, arguments.database, arguments.last))


if __name__ == "__main__":
    main()
