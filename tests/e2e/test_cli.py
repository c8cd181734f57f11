from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from daemon import PASSWORD, running_daemon, to_toml, wait_until

from tests.devnet import Devnet, realistic_record

COMMAND = str(Path(sys.executable).with_name("chive-indexer"))
DEADLINE_S = 30.0
COLLECTION = "pub.chive.eprint.userTag"
UNREACHABLE = "ws://127.0.0.1:9"


async def ran(*arguments: object) -> tuple[int, str, str]:
    """Run the installed command to its end: exit code, output, error."""
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"]},
    )
    async with asyncio.timeout(DEADLINE_S):
        out, err = await process.communicate()
    assert PASSWORD.encode() not in out + err
    return process.returncode or 0, out.decode(), err.decode()


class StartedCommand:
    """`chive-indexer run` in a process of its own, and the events that it has logged."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.events: list[dict[str, object]] = []

    async def event(self, name: str) -> dict[str, object]:
        """The next event of this name."""
        assert self.process.stderr is not None
        async with asyncio.timeout(DEADLINE_S):
            while line := await self.process.stderr.readline():
                assert PASSWORD not in line.decode()
                self.events.append(json.loads(line))
                if self.events[-1]["event"] == name:
                    return self.events[-1]
        raise AssertionError(f"no {name} in {self.events}")

    async def ended(self) -> int:
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.wait()


@asynccontextmanager
async def started(config: Path) -> AsyncIterator[StartedCommand]:
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        *("run", "--config", str(config)),
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"]},
    )
    try:
        yield StartedCommand(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def written_config(folder: Path, **changed: object) -> Path:
    folder.mkdir(exist_ok=True)
    password = folder / "admin-password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    config = folder / "config.toml"
    tree = {
        "storage": {"path": str(folder / "index.db")},
        "firehose": {"url": UNREACHABLE},
        "network": {"allow_private_hosts": True},
        "admin": {"port": 0, "password_file": str(password)},
        "metrics": {"port": 0},
        "log": {"level": "debug"},
    }
    for name, value in changed.items():
        section, _, key = name.partition("__")
        tree[section][key] = value
    config.write_text(to_toml(tree))
    return config


async def test_the_command_runs_a_daemon_that_status_reaches_and_a_signal_ends(tmp_path: Path):
    config = written_config(tmp_path / "first")
    async with started(config) as command:
        url = (await command.event("daemon.started"))["admin"]
        code, out, err = await ran("status", "--config", config, "--url", url)
        assert (code, err) == (0, "")
        assert f"chive-indexer 0.1.0 at {url}: degraded, up" in out
        assert f"no; firehose: not connected to {UNREACHABLE}" in out
        command.process.send_signal(signal.SIGTERM)
        await command.event("daemon.stopped")
        assert await command.ended() == 0


async def test_a_second_daemon_on_the_same_file_exits_as_badly_configured(tmp_path: Path):
    config = written_config(tmp_path / "first")
    async with started(config) as command:
        await command.event("daemon.started")
        code, _, err = await ran("run", "--config", config)
    [line] = err.splitlines()
    assert code == 78
    assert json.loads(line)["event"] == "daemon.refused"


async def test_a_port_in_use_ends_the_daemon_as_a_fault_of_this_machine(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = written_config(tmp_path / "first", admin__port=port)
        async with started(config) as command:
            failed = await command.event("daemon.failed")
            assert f"admin.port = {port}: cannot listen there" in str(failed["reason"])
            assert "Traceback" in str(failed["exception"])
            assert await command.ended() == 74


@pytest.fixture
async def net() -> AsyncIterator[Devnet]:
    async with Devnet(seed=7) as running:
        yield running


async def test_an_operator_backfills_watches_lists_and_cancels(tmp_path: Path, net: Devnet):
    account = await net.create_account()
    net.create(account, COLLECTION, realistic_record(random.Random(7), COLLECTION))
    values = {
        "firehose": {"url": net.relay_url},
        "identity": {"plc_url": net.plc_url, "handle_resolver_url": net.handle_resolver_url},
        "network": {"allow_private_hosts": True},
    }
    async with running_daemon(tmp_path, values) as daemon:
        target = ("--url", daemon.addresses.admin_url, "--password-file", tmp_path / "password")

        code, out, err = await ran("backfill", "didSync", "--did", account.did, "--watch", *target)
        assert code == 0, err
        assert "completed in" in out and ", 1 record\n" in out
        [(identifier, status)] = daemon.rows("SELECT id, status FROM operations")
        assert status == "completed"
        assert identifier in out

        code, out, _ = await ran("operations", *target)
        assert (code, len(out.splitlines())) == (0, 2)
        assert identifier in out

        code, out, _ = await ran("cancel", identifier, *target)
        assert (code, out) == (1, f"Operation {identifier} had already ended: completed.\n")

        code, _, err = await ran("operations", "nope", *target)
        assert code == os.EX_DATAERR
        assert "`chive-indexer operations` lists those that exist" in err

        code, _, err = await ran("backfill", "didSync", *target)
        assert code == os.EX_DATAERR
        assert "parameter did is required" in err


async def test_an_operator_keeps_an_account_out_and_copies_the_store_meanwhile(
    tmp_path: Path, net: Devnet
):
    account = await net.create_account()
    net.create(account, COLLECTION, realistic_record(random.Random(7), COLLECTION))
    values = {
        "firehose": {"url": net.relay_url, "start": "oldest"},
        "identity": {"plc_url": net.plc_url, "handle_resolver_url": net.handle_resolver_url},
        "network": {"allow_private_hosts": True},
    }
    async with running_daemon(tmp_path, values) as daemon:
        target = ("--url", daemon.addresses.admin_url, "--password-file", tmp_path / "password")
        count = "SELECT count(*) FROM records"
        await wait_until(lambda: daemon.rows(count) == [(1,)], what="the record")
        code, out, err = await ran("deny", account.did, "--reason", "spam", *target)
        assert (code, out, err) == (0, f"{account.did} is denied, 1 record hidden.\n", "")
        assert daemon.rows(count) == [(0,)]
        code, out, _ = await ran("denied", *target)
        assert code == 0 and account.did in out
        copy = tmp_path / "copy.db"
        code, out, err = await ran("backup", copy, "--config", tmp_path / "config.toml")
        assert code == 0 and "checked" in out, err
        code, _, err = await ran("restore", copy, "--config", tmp_path / "config.toml")
        assert code == os.EX_CONFIG and "stop it first" in err


async def test_a_didsync_of_an_account_that_no_directory_knows_fails_with_its_reason(
    tmp_path: Path, net: Devnet
):
    values = {
        "firehose": {"url": net.relay_url},
        "identity": {"plc_url": net.plc_url, "handle_resolver_url": net.handle_resolver_url},
        "network": {"allow_private_hosts": True},
    }
    unknown = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"
    async with running_daemon(tmp_path, values) as daemon:
        target = ("--url", daemon.addresses.admin_url, "--password-file", tmp_path / "password")
        code, out, _ = await ran("backfill", "didSync", "--did", unknown, "--watch", *target)
        assert code == 1
        assert "failed" in out and "  error  " in out


async def test_a_wrong_password_is_told_from_a_daemon_that_is_not_there(tmp_path: Path):
    wrong = tmp_path / "wrong"
    wrong.write_text("something else entirely")
    wrong.chmod(0o600)
    values = {"firehose": {"url": UNREACHABLE}, "network": {"allow_private_hosts": True}}
    async with running_daemon(tmp_path, values) as daemon:
        url = daemon.addresses.admin_url
        code, _, err = await ran("status", "--url", url, "--password-file", wrong)
        assert code == os.EX_NOPERM
        assert "admin.password_file with --password-file" in err
        metrics_url = daemon.addresses.metrics_url.removesuffix("/metrics")
        code, _, err = await ran("status", "--url", metrics_url, "--password-file", wrong)
        assert code == os.EX_PROTOCOL
        assert "--url must name the daemon's admin.port" in err
    code, _, err = await ran("status", "--url", url, "--password-file", wrong)
    assert code == os.EX_UNAVAILABLE
    assert "start it with `chive-indexer run`" in err
