"""The page about the admin API: each line runs as it stands, and no method is left out."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.devnet.account import Account
from tests.e2e.daemon import PASSWORD
from tests.e2e.test_admin_fuzz import served_methods
from tests.e2e.test_admin_methods import ADMIN, Stage, letters, refuse_a_commit, stage
from tests.e2e.test_author_methods import token

PAGE = (Path(__file__).parents[2] / "docs" / "admin-api.md").read_text()
LINES = re.findall(r"^curl .*$", PAGE, re.MULTILINE)

__all__ = ["stage"]  # a fixture of the other module


def documented() -> set[str]:
    return {name for line in LINES for name in re.findall(r"/xrpc/(pub\.[A-Za-z.]+)", line)}


async def run(line: str, variables: dict[str, str]) -> tuple[int, str]:
    """Status and body of what a line of the page gets."""
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", line + " -w '\\n%{http_code}'",
        env={"PATH": os.environ["PATH"], **variables},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, error = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, error.decode()
    body, _, status = out.decode().rpartition("\n")
    return int(status), body


def record_of(stage: Stage, account: Account) -> str:
    return stage.daemon.rows("SELECT min(uri) FROM records WHERE did = ?", account.did)[0][0]


def author_token(account: Account, line: str) -> str:
    """A token for the method that a line calls."""
    found = re.search(r"/xrpc/pub\.chive\.sync\.([A-Za-z]+)", line)
    return token(account, found[1]) if found else ""


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_every_line_of_the_page_runs_as_it_stands(stage: Stage):
    account = await refuse_a_commit(stage)
    for line in LINES:
        operation = await stage.do(ADMIN + "triggerDIDSync", did=account.did)
        entries = (await stage.get(ADMIN + "listDLQEntries"))["entries"]
        if not entries and "$INDEX" in line:
            await refuse_a_commit(stage)
            entries = await letters(stage, 1)
        variables = {
            "ADMIN": stage.daemon.addresses.admin_url,
            "PASSWORD": PASSWORD,
            "DID": account.did,
            "PDS": stage.net.pds[0].url,
            "ID": operation["operationId"],
            "INDEX": entries[0]["id"] if entries else "",
            "URI": record_of(stage, account),
            "TOKEN": author_token(account, line),
        }
        status, body = await run(line, variables)
        assert status == 200, (line, body)


async def test_every_method_that_is_served_is_on_the_page_and_no_other(stage: Stage):
    served = {*await served_methods(stage), "pub.chive.indexer.createBackup"}
    assert documented() == served
