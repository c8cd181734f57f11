"""A machine without a free descriptor: what is new has to wait, and the stream goes on."""

from __future__ import annotations

import os
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.devnet import Devnet
from tests.e2e.daemon import running_daemon, wait_until
from tests.e2e.test_stream_gaps import EQUAL_S, accounts_with_records, settings, tag
from tests.oracle import wait_until_equal

LIVE = "SELECT count(*) FROM records WHERE source = 'live'"


@contextmanager
def no_descriptors() -> Iterator[None]:
    """As if others had taken all that are left."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_without_a_descriptor_live_commits_are_applied_and_nothing_else_is_lost(
    tmp_path: Path,
):
    """Whatever the fetch of a newcomer comes to, which may find one that was given back."""
    async with Devnet(seed=3) as net:
        accounts = await accounts_with_records(net, 3)
        async with running_daemon(tmp_path, settings(net)) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            newcomer = await net.create_account()
            with closing(sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)) as reader:

                def rows(sql: str) -> list[tuple[object, ...]]:
                    return reader.execute(sql).fetchall()

                assert rows("SELECT count(*) FROM records") == [(3,)]  # and the file is open
                with no_descriptors():
                    for account in (*accounts, newcomer):
                        tag(net, account)
                    await wait_until(lambda: rows(LIVE) == [(3,)], what="the live commits")
                    assert not daemon.task.done()
            await daemon.backfill("didSync", did=newcomer.did)
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
