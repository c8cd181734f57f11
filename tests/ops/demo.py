"""`make demo` as a user starts it, for what watches a daemon from outside."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
START_S = 60.0
STOP_S = 30.0


@dataclass(frozen=True)
class Demo:
    """The running demo: where it listens, and its admin password."""

    admin_url: str
    metrics_url: str
    folder: Path

    @property
    def password(self) -> str:
        return (self.folder / "admin-password").read_text().strip()

    @property
    def accounts(self) -> list[str]:
        """DIDs of the simulated network, as the index knows them."""
        answer = self.call("GET", "pub.chive.indexer.listRepos")
        return [repo["did"] for repo in answer["repos"]]

    def call(self, method: str, nsid: str, **body: Any) -> Any:
        """An XRPC call as `admin`: the answer's JSON."""
        request = urllib.request.Request(
            f"{self.admin_url}/xrpc/{nsid}",
            method=method,
            data=json.dumps(body).encode() if method == "POST" else None,
            headers={
                "Authorization": "Basic "
                + base64.b64encode(f"admin:{self.password}".encode()).decode(),
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    with (
        contextlib.suppress(urllib.error.URLError, OSError),
        urllib.request.urlopen(url, timeout=5),
    ):
        return True
    return False


@contextmanager
def running_demo(folder: Path) -> Iterator[Demo]:
    """The demo, from its banner to its end; it must end well."""
    admin, metrics = free_port(), free_port()
    command = [
        sys.executable, "-m", "tests.demo", "--dir", str(folder),
        "--admin-port", str(admin), "--metrics-port", str(metrics),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as process:
        try:
            ends = time.monotonic() + START_S
            while not answers(f"http://127.0.0.1:{admin}/readyz"):
                assert process.poll() is None, "the demo has ended"
                assert time.monotonic() < ends, "the demo does not become ready"
                time.sleep(0.1)
            yield Demo(f"http://127.0.0.1:{admin}", f"http://127.0.0.1:{metrics}/metrics", folder)
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=STOP_S)
    assert process.returncode == 0
