"""What the store must hold, derived from the devnet's own truth, and compared through `sqlite3`.

Owns the comparison that ends nearly every test of the daemon. Reads the file as any reader would:
the view `records`, a connection of its own, read-only. Knows nothing of the indexer's code.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from tests.devnet.cbor import JsonValue, cid_text
from tests.devnet.network import Devnet

Records: TypeAlias = dict[str, tuple[str, JsonValue]]
"""AT-URI -> (CID text, ATProto JSON value; None where the value breaks the data model)."""

SCOPE = ("pub.chive.*",)
_SHOWN_MAX = 5
_POLL_S = 0.02


def in_scope(path: str, scope: Iterable[str] = SCOPE) -> bool:
    """Whether `collection/rkey` belongs to one of the patterns: an NSID, or `prefix.*`."""
    return _is_collection_in(path.partition("/")[0], tuple(scope))


@lru_cache(maxsize=10_000)
def _is_collection_in(collection: str, scope: tuple[str, ...]) -> bool:
    return any(
        collection.startswith(pattern[:-1]) if pattern.endswith(".*") else collection == pattern
        for pattern in scope
    )


def expected_records(net: Devnet, scope: Iterable[str] = SCOPE) -> Records:
    """Every in-scope record of every account that is active on its own host."""
    patterns = tuple(scope)
    return {
        f"at://{account.did}/{path}": (cid, value)
        for account in net.accounts.values()
        if net.is_visible(account)
        for path, cid, value in net.records(account, lambda path: in_scope(path, patterns))
    }


def read_records(db_path: Path | str) -> Records:
    """What the view `records` shows. A file or view that is not there yet shows nothing."""
    rows = _rows(db_path, "records", "SELECT uri, cid, value FROM records")
    found = {uri: (cid, None if value is None else json.loads(value)) for uri, cid, value in rows}
    assert len(found) == len(rows), "the view `records` has a URI twice"
    return found


def differences(expected: Mapping[str, object], found: Mapping[str, object]) -> list[str]:
    """One line for every record that is missing, too many or different."""
    lines = [f"missing  {uri}" for uri in expected if uri not in found]
    lines += [f"too many {uri}" for uri in found if uri not in expected]
    lines += [
        f"differs  {uri}: expected {expected[uri]}, found {found[uri]}"
        for uri in expected
        if uri in found and expected[uri] != found[uri]
    ]
    return lines


def expected_heads(net: Devnet, scope: Iterable[str] = SCOPE) -> dict[str, tuple[str, str]]:
    """DID -> (rev, data CID) of the commit of every visible account with an in-scope record."""
    patterns = tuple(scope)
    heads = {}
    for account in net.accounts.values():
        if net.is_visible(account):
            repo = net.repo(account)
            if any(in_scope(path, patterns) for path in repo.records):
                heads[account.did] = (repo.rev or "", cid_text(repo.data))
    return heads


def read_heads(db_path: Path | str) -> dict[str, tuple[str, str]]:
    """The same of every account that the view `accounts` calls active in both its columns."""
    query = "SELECT did, rev, data_cid FROM accounts WHERE status = 'active' AND state = 'active'"
    return {did: (rev, data) for did, rev, data in _rows(db_path, "accounts", query)}


def assert_no_bugs(db_path: Path | str) -> None:
    """Fail where our own code has failed over what an account wrote."""
    with closing(sqlite3.connect(f"file:{db_path}?mode=ro", uri=True)) as connection:
        bugs = connection.execute(
            "SELECT did, message FROM dead_letter WHERE reason = 'bug' UNION ALL"
            " SELECT did, reason FROM repo WHERE reason LIKE 'bug:%'"
        ).fetchall()
    assert not bugs, bugs


def assert_heads_equal(net: Devnet, db_path: Path | str, scope: Iterable[str] = SCOPE) -> None:
    """Fail unless every repo that the store must hold stands at its latest commit."""
    expected = expected_heads(net, scope)
    found = {did: head for did, head in read_heads(db_path).items() if did in expected}
    lines = differences(expected, found)
    assert not lines, "heads differ (seed {}):\n  {}".format(net.seed, "\n  ".join(lines))


def assert_store_equals(net: Devnet, db_path: Path | str, scope: Iterable[str] = SCOPE) -> None:
    """Fail with the first differences between the store and the truth."""
    expected, found = expected_records(net, scope), read_records(db_path)
    lines = differences(expected, found)
    if lines:
        shown = "\n  ".join(line[:400] for line in lines[:_SHOWN_MAX])
        raise AssertionError(
            f"{len(lines)} differences ({len(expected)} expected, {len(found)} found, "
            f"seed {net.seed}):\n  {shown}"
        )


def is_equal(
    net: Devnet, db_path: Path | str, scope: Iterable[str] = SCOPE, *, heads: bool = False
) -> bool:
    """Whether the CIDs of all records are those of the truth, and the repos' heads too."""
    patterns = tuple(scope)
    return _cids(net, patterns) == read_cids(db_path) and (
        not heads or expected_heads(net, patterns).items() <= read_heads(db_path).items()
    )


async def wait_until_equal(
    net: Devnet,
    db_path: Path | str,
    timeout_s: float = 10.0,
    scope: Iterable[str] = SCOPE,
    *,
    heads: bool = False,
) -> float:
    """Wait until the store equals the truth; then the seconds that took, by the loop's clock.

    With `heads` the repos must also stand at their latest commits. At the deadline the failure
    names the first differences. The truth is taken anew at every look, so traffic may go on
    meanwhile, though it is best stopped first.
    """
    now = asyncio.get_running_loop().time
    started = now()
    patterns = tuple(scope)
    while now() - started < timeout_s:
        if is_equal(net, db_path, patterns, heads=heads):
            break
        await asyncio.sleep(_POLL_S)
    assert_store_equals(net, db_path, patterns)
    if heads:
        assert_heads_equal(net, db_path, patterns)
    return now() - started


def read_cids(db_path: Path | str) -> dict[str, str]:
    """URI -> CID text of the view `records`: the cheap half of the comparison."""
    rows = _rows(db_path, "records", "SELECT uri, cid FROM records")
    return {row[0]: row[1] for row in rows}


READS_MAX = 3


def _rows(db_path: Path | str, view: str, query: str) -> list[tuple[str, ...]]:
    """All rows; none where the file or the view is not there yet."""
    for _ in range(READS_MAX - 1):
        try:
            return _rows_now(db_path, view, query)
        except sqlite3.OperationalError as error:
            # The log of a writer that dies or comes up just now: SQLite asks to try again.
            if error.sqlite_errorname != "SQLITE_PROTOCOL":
                raise
    return _rows_now(db_path, view, query)


def _rows_now(db_path: Path | str, view: str, query: str) -> list[tuple[str, ...]]:
    if not Path(db_path).exists():
        return []
    with closing(sqlite3.connect(f"file:{db_path}?mode=ro", uri=True, timeout=5)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (view,)).fetchone():
            return []
        return db.execute(query).fetchall()


def _cids(net: Devnet, scope: tuple[str, ...]) -> dict[str, str]:
    return {
        f"at://{account.did}/{path}": cid
        for account in net.accounts.values()
        if net.is_visible(account)
        for path, cid in net.cids(account)
        if in_scope(path, scope)
    }
