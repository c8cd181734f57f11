"""Readers of the file beside a running daemon."""

from __future__ import annotations

import json
import os
import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from daemon import running_daemon, wait_until
from test_cli import ran

from tests.devnet import Devnet, realistic_record
from tests.devnet.lifecycle import set_status
from tests.oracle import wait_until_equal

EPRINT, TAG = "pub.chive.eprint.submission", "pub.chive.eprint.userTag"


@pytest.fixture
async def net() -> AsyncIterator[Devnet]:
    async with Devnet(seed=11) as running:
        yield running


async def test_what_authors_write_is_searched_verified_and_exported(tmp_path: Path, net: Devnet):
    author, reader = await net.create_account(), await net.create_account()
    eprint = realistic_record(random.Random(1), EPRINT) | {"title": "Herons of the Danube"}
    written = net.create(author, EPRINT, eprint)
    uri = written.uri
    tag = realistic_record(random.Random(1), TAG) | {"eprintUri": uri, "tag": "fieldwork"}
    net.create(reader, TAG, tag)
    values = {
        "firehose": {"url": net.relay_url, "start": "oldest"},
        "identity": {"plc_url": net.plc_url, "handle_resolver_url": net.handle_resolver_url},
        "network": {"allow_private_hosts": True},
    }
    async with running_daemon(tmp_path, values) as daemon:
        await wait_until_equal(net, daemon.database)
        config = tmp_path / "config.toml"

        def tags() -> list[str]:
            return [row[0] for row in daemon.rows("SELECT tags FROM eprint_search")]

        await wait_until(lambda: tags() == ["fieldwork"], what="the tag")
        code, out, _ = await ran("search", "heron*", "--json", "--config", config)
        assert code == 0
        assert [found["uri"] for found in json.loads(out)["results"]] == [uri]
        code, out, err = await ran("verify", "--config", config)
        assert (code, out) == (0, "2 records verified, 0 differences found.\n"), err
        code, out, _ = await ran("export", "--format", "jsonl", "--config", config)
        assert code == 0
        exported = {record["uri"]: record["value"] for record in map(json.loads, out.splitlines())}
        assert exported.keys() == {row[0] for row in daemon.rows("SELECT uri FROM records")}
        assert exported[uri]["title"] == "Herons of the Danube"
        set_status(net, reader, "deactivated")
        await wait_until(lambda: tags() == [""], what="the tag of a hidden account to go")
        set_status(net, author, "deactivated")
        await wait_until(lambda: tags() == [], what="the row of a hidden account to go")
        set_status(net, author, "active")
        set_status(net, reader, "active")
        await wait_until(lambda: tags() == ["fieldwork"], what="both to come back")
    code, out, err = await ran("verify", "--config", config)
    assert (code, out, err) == (0, "2 records verified, 0 differences found.\n", "")


async def test_export_to_a_file_is_complete_or_absent(tmp_path: Path):
    config = tmp_path / "config.toml"
    config.write_text(f'[storage]\npath = "{tmp_path}/index.db"\n')
    code, _, err = await ran("export", "--config", config)
    assert code == 78 and f"there is no index at {tmp_path}/index.db" in err
    async with running_daemon(tmp_path, {"firehose": {"url": "ws://127.0.0.1:9"},
                                         "network": {"allow_private_hosts": True}}):  # fmt: skip
        out = tmp_path / "records.jsonl"
        assert (await ran("export", "--output", out, "--config", config))[0] == 0
        assert out.read_text() == ""
        nowhere = tmp_path / "no" / "where.jsonl"
        code, _, err = await ran("export", "--output", nowhere, "--config", config)
        assert code != 0 and "No such file" in err
    assert not list(tmp_path.glob("*.partial"))


async def test_export_replaces_neither_a_device_nor_a_link(tmp_path: Path):
    """For root `--output /dev/null` would make a plain file of it, for everybody."""
    config = tmp_path / "config.toml"
    config.write_text(f'[storage]\npath = "{tmp_path}/index.db"\n')
    async with running_daemon(tmp_path, {"firehose": {"url": "ws://127.0.0.1:9"},
                                         "network": {"allow_private_hosts": True}}):  # fmt: skip
        pipe, link, target = (tmp_path / name for name in ("pipe", "link", "target"))
        os.mkfifo(pipe)
        target.write_text("of before")
        link.symlink_to(target)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            for output in (pipe, link):
                assert (await ran("export", "--output", output, "--config", config))[0] == 0
        finally:
            os.close(reader)
        assert pipe.is_fifo() and link.is_symlink() and target.read_text() == ""


@pytest.mark.parametrize("command", [("search", "x"), ("verify",), ("export",)])
async def test_a_file_of_another_program_is_refused(tmp_path: Path, command: tuple[str, ...]):
    with sqlite3.connect(tmp_path / "index.db") as connection:
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    config = tmp_path / "config.toml"
    config.write_text(f'[storage]\npath = "{tmp_path}/index.db"\n')
    code, _, err = await ran(*command, "--config", config)
    assert code == 78 and "is a database of another program" in err
