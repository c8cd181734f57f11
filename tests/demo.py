"""`make demo`: a daemon on a fresh store against a simulated network, until Ctrl-C.

The network (PLC, two PDSes, a relay; real signed repos, steady activity) runs in this process, the
daemon as the ordinary command beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import secrets
import shlex
import shutil
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tests.devnet import Activity, Devnet
from tests.documents import styles
from tests.documents.layout import Paragraph, set_pages
from tests.documents.pdf import write_pdf
from tests.documents.works import works

GRAPH = ["pub.chive.graph.node", "pub.chive.graph.edge"]
DOCUMENTS = 3
HISTORY = 300
RATE = 5.0
ACCOUNTS = 20
READY_S = 30.0
PASSWORD = "admin-password"
"""The file that a demo makes first, by which its folder is known again."""

CONFIG = """\
[storage]
path = {database}

[firehose]
url = {relay}
start = "oldest"

[identity]
plc_url = {plc}
handle_resolver_url = {handles}

[network]
allow_private_hosts = true

[governance]
did = {governance}

[citations]
crossref_url = ""
semantic_scholar_url = ""

[admin]
port = {admin_port}
password_file = {password}

[metrics]
port = {metrics_port}

[log]
level = "warning"
"""


async def run(options: argparse.Namespace) -> int:
    """Start everything, print the banner, wait for a signal or for the daemon's end."""
    folder = options.dir.resolve()
    empty(folder)
    password = folder / PASSWORD
    password.touch(mode=0o600)
    password.write_text(secrets.token_urlsafe(24) + "\n")
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with Devnet(seed=options.seed) as net:
        documents = [_document(net.rng) for _ in range(DOCUMENTS)]
        activity = Activity(net, RATE, accounts_max=ACCOUNTS, documents=documents)
        await activity.steps(HISTORY)
        governance = await _governance(net)
        config = folder / "config.toml"
        config.write_text(
            CONFIG.format(
                database=json.dumps(str(folder / "index.db")),
                relay=json.dumps(net.relay_url),
                plc=json.dumps(net.plc_url),
                handles=json.dumps(net.handle_resolver_url),
                governance=json.dumps(governance),
                admin_port=options.admin_port,
                metrics_port=options.metrics_port,
                password=json.dumps(str(password)),
            )
        )
        daemon = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("chive-indexer")),
            "run",
            "--config",
            str(config),
            start_new_session=True,  # Ctrl-C reaches us; we stop the daemon in turn
        )
        try:
            return await _watch(options, folder, net, activity, daemon, stopped)
        finally:
            if daemon.returncode is None:
                daemon.terminate()
            await daemon.wait()


def empty(folder: Path) -> None:
    """Make an empty folder of it, unless what is there is something else than an earlier demo."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / PASSWORD).exists():
        sys.exit(f"{folder} has files that are no demo's: name another DEMO_DIR, or empty it")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


async def _governance(net: Devnet) -> str:
    """An account with a graph for a governance sync; its DID."""
    authority = await net.create_account()
    net.import_records(authority, 24, GRAPH)
    return authority.did


def _document(rng: random.Random) -> bytes:
    """A PDF with a reference list, for a citation extraction."""
    entries = enumerate(works(rng, 12), 1)
    text = [
        Paragraph("References"),
        *(Paragraph(f"[{at}] {styles.ieee(work)}") for at, work in entries),
    ]
    return write_pdf(set_pages(text))


async def _watch(
    options: argparse.Namespace,
    folder: Path,
    net: Devnet,
    activity: Activity,
    daemon: asyncio.subprocess.Process,
    stopped: asyncio.Event,
) -> int:
    admin_url = f"http://127.0.0.1:{options.admin_port}"
    async with asyncio.timeout(READY_S):
        while daemon.returncode is None and not await asyncio.to_thread(_is_ready, admin_url):
            await asyncio.sleep(0.1)
    if daemon.returncode is None:
        print(_banner(options, folder, net, admin_url), flush=True)
    async with asyncio.TaskGroup() as tasks:
        traffic = tasks.create_task(activity.run(), name="demo.activity")
        ends = tasks.create_task(daemon.wait(), name="demo.daemon")
        stop = tasks.create_task(stopped.wait(), name="demo.stop")
        await asyncio.wait((ends, stop), return_when=asyncio.FIRST_COMPLETED)
        if daemon.returncode is None:
            daemon.terminate()
        code = await ends
        traffic.cancel()
        stop.cancel()
    print(f"The daemon has ended with exit code {code}.", flush=True)
    return code


def _is_ready(admin_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{admin_url}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _banner(options: argparse.Namespace, folder: Path, net: Devnet, admin_url: str) -> str:
    did = next(account.did for account in net.accounts.values() if net.is_visible(account))
    config, password, database = (
        shlex.quote(str(folder / name)) for name in ("config.toml", PASSWORD, "index.db")
    )
    command = shlex.quote(str(Path(sys.executable).with_name("chive-indexer")))
    return f"""
chive-indexer follows a simulated network. Ctrl-C ends it.

  admin     {admin_url}
  metrics   http://127.0.0.1:{options.metrics_port}/metrics
  password  {password}   (user: admin)
  database  {database}

  {command} status --config {config} --password-file {password}

Sync one account now:

  curl -s -u "admin:$(cat {password})" -H 'Content-Type: application/json' \\
    -d '{{"type":"didSync","did":"{did}"}}' {admin_url}/xrpc/pub.chive.admin.triggerBackfill
"""


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path(".demo"))
    parser.add_argument("--admin-port", type=int, default=2580)
    parser.add_argument("--metrics-port", type=int, default=2581)
    parser.add_argument("--seed", type=int, default=1)
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
