"""Everything that the devnet's repos ever were, and whether a store is one of those states.

Owns the comparison with a store whose daemon is dead or at work: it need not be the present one,
but each repo in it has to be what its account once signed, and nothing up to the cursor may lack.
Knows nothing of the indexer's code.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path

from tests.devnet import Devnet
from tests.devnet.cbor import cid_text
from tests.devnet.frames import Event
from tests.oracle import in_scope

_REPOS = """
    SELECT id, did, rev, wanted = 0 AND claimed = 0 FROM repo
    WHERE state = 'active' AND account_status = 'active'
"""
_RECORDS = "SELECT repo_id, path, cid FROM record"
_CURSOR = "SELECT max(seq) FROM firehose_cursor"


class RememberingDevnet(Devnet):
    """A devnet that keeps the in-scope records of each commit that it has told of."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        self.past: dict[tuple[str, str], dict[str, str]] = {}  # (did, rev) -> path -> CID text

    def emit(self, pds: int, event: Event) -> None:
        repo = self.repo(self.accounts[event.did])
        if repo.rev is not None and (event.did, repo.rev) not in self.past:
            self.past[event.did, repo.rev] = {
                path: cid_text(cid) for path, cid in repo.records.items() if in_scope(path)
            }
        super().emit(pds, event)


def check_past(net: RememberingDevnet, database: Path) -> int:
    """Fail unless the store is a past of the network; how many repos were compared.

    A repo that calls itself whole has exactly the rows of the commit that it names, and of the
    events up to the saved cursor none is missing: either its commit is not older than theirs, or
    the repo says that there is something to do.
    """
    if not database.exists():
        return 0
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as db:
        if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'firehose_cursor'").fetchone():
            return 0
        db.execute("BEGIN")
        repos = db.execute(_REPOS).fetchall()
        known = {did for (did,) in db.execute("SELECT did FROM repo")}
        rows: dict[int, dict[str, str]] = defaultdict(dict)
        for repo_id, path, cid in db.execute(_RECORDS):
            rows[repo_id][path] = cid
        cursor = db.execute(_CURSOR).fetchone()[0] or 0
    told = told_until(net, cursor)
    for repo_id, did, rev, is_settled in repos:
        assert (did, rev) in net.past, f"{did} stands at {rev}, which it never signed"
        assert rows[repo_id] == net.past[did, rev], f"{did} has not the rows of {rev}"
        is_behind = is_settled and rev < told.get(did, "")
        assert not is_behind, f"{did} stands at {rev}, the cursor {cursor} is ahead"
    lost = [did for did in told if did not in known and is_told_in_scope(net, did, cursor)]
    assert not lost, f"the cursor {cursor} is ahead of the first records of {lost}"
    return len(repos)


def told_until(net: Devnet, cursor: int) -> dict[str, str]:
    """DID -> rev of the last #commit that the relay has sent under a seq up to `cursor`."""
    return {
        entry.event.did: str(entry.event.body["rev"])
        for entry in net.relay.stream.after(0, limit=cursor)
        if entry.seq <= cursor and entry.event.kind == "#commit" and entry.event.raw is None
    }


def is_told_in_scope(net: Devnet, did: str, cursor: int) -> bool:
    """Whether an event up to `cursor` has shown an in-scope record of the account."""
    return any(
        in_scope(op["path"]) and op["action"] != "delete"
        for entry in net.relay.stream.after(0, limit=cursor)
        if entry.seq <= cursor and entry.event.did == did and entry.event.kind == "#commit"
        for op in entry.event.body["ops"]
    )
