"""The daemon within the walls that its unit builds: all of it works there, and they stand."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.json import encode

from indexer.children import command, environment
from indexer.records.registry import load_registry
from storage.rebuild_work import BeginIndex, Outcome
from storage.rebuild_worker import WorkerSettings
from tests.devnet import Devnet
from tests.documents.works import works
from tests.e2e.daemon import to_toml, wait_until
from tests.e2e.test_admin_kill import process
from tests.e2e.test_admin_methods import ADMIN, INDEXER
from tests.e2e.test_citation_extraction import document, settings, submit
from tests.e2e.test_operation_runs import call, stored
from tests.ops.sandbox import allowed_calls
from tests.oracle import wait_until_equal

pytestmark = pytest.mark.ops

ROOT = Path(__file__).parents[2]
EQUAL_S = 60.0
STOP_S = 15.0


def within(state: Path) -> list[str]:
    return [sys.executable, "-m", "tests.ops.sandbox", str(state)]


@pytest.mark.parametrize(
    ("attempt", "reason"),
    [
        ("open('/etc/no-such-file', 'w')", "Read-only file system"),
        ("open(STATE + '/file', 'w')", None),
        ("os.chroot('/')", "Operation not permitted"),
        ("os.setpriority(os.PRIO_PROCESS, 0, 5)", "Operation not permitted"),
        ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", "Operation not permitted"),
        ("socket.socket(socket.AF_INET)", None),
        ("mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)", "Permission denied"),
    ],
)
def test_the_walls_stand_where_the_unit_has_them(attempt: str, reason: str | None, tmp_path: Path):
    code = f"import mmap, os, socket; STATE = {str(tmp_path)!r}; {attempt}"
    command = [*within(tmp_path), sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode == 0) is (reason is None), result.stderr
    assert (reason or "") in result.stderr


def test_a_process_of_a_rebuild_works_within_the_walls(tmp_path: Path):
    settings = WorkerSettings(index=str(tmp_path / "index.db"), registry=load_registry().source)
    work = BeginIndex(str(tmp_path / "search.db"), "eprint_search__2")
    result = subprocess.run(
        [*within(tmp_path), *command("storage.rebuild_worker", encode(settings).decode())],
        input=encode(work) + b"\n", cwd=ROOT, env={**os.environ, **environment()},
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (0, encode(Outcome()) + b"\n"), result.stderr
    assert (tmp_path / "search.db").exists()


def test_the_filter_is_the_one_of_the_unit():
    calls = allowed_calls()
    assert {"openat", "fsync", "prlimit64", "prctl", "epoll_wait"} <= calls
    assert not calls & {"mount", "chown", "setuid", "ptrace", "bpf", "setpriority", "reboot"}


async def test_the_daemon_follows_reads_documents_copies_and_stops_within_the_walls(tmp_path: Path):
    async with Devnet(seed=31) as net:
        account = await net.create_account()
        cited = works(net.rng, 3)
        submit(net, account, document(cited))
        config = tmp_path / "config.toml"
        config.write_text(to_toml(settings(tmp_path, net)))
        database = tmp_path / "index.db"
        async with process(config, within=within(tmp_path)) as (daemon, url):
            await wait_until_equal(net, database, EQUAL_S, heads=True)
            for kind in ("citationExtraction", "fullReindex"):
                await call(url, ADMIN + "triggerBackfill", type=kind)
                ended = f"SELECT status FROM operations WHERE type = '{kind}'"
                await wait_until(
                    lambda ended=ended: stored(database, ended) == [("completed",)],
                    what=f"the end of {kind}",
                )
            titles = "SELECT title FROM citations WHERE source = 'document'"
            assert stored(database, titles) == [(work.title,) for work in cited]
            copy = await call(url, INDEXER + "createBackup")
            assert (tmp_path / "backups" / copy["name"]).stat().st_size == copy["sizeBytes"]
            daemon.send_signal(signal.SIGTERM)
            async with asyncio.timeout(STOP_S):
                assert await daemon.wait() == 0
