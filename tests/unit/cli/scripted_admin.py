"""A listener on loopback that answers as a script says: good answers, and all that can go wrong."""

from __future__ import annotations

import base64
import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

PASSWORD = "correct horse battery staple"

TRIGGER = "/xrpc/pub.chive.admin.triggerBackfill"
CANCEL = "/xrpc/pub.chive.admin.cancelBackfill"
STATUS = "/xrpc/pub.chive.admin.getBackfillStatus"
HEALTH = "/xrpc/pub.chive.admin.getSystemHealth"
FIREHOSE = "/xrpc/pub.chive.admin.getFirehoseStatus"
OVERVIEW = "/xrpc/pub.chive.admin.getOverview"

CLOSE = object()
"""An answer that is none: the connection ends."""


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    params: dict[str, str]
    body: Any
    headers: dict[str, str]


@dataclass
class ScriptedAdmin:
    """`answers`: path -> what it answers in turn, the last one for ever; (status, JSON or bytes)
    or (status, JSON or bytes, headers)."""

    url: str = ""
    answers: dict[str, deque[Any]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def answer(self, path: str, *answers: Any) -> None:
        self.answers[path] = deque(answers)

    def wait_for(self, path: str, times: int, deadline_s: float = 15.0) -> None:
        """Return when `path` was asked for that often."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.count(path) >= times, deadline_s), path

    def count(self, path: str) -> int:
        return sum(request.path == path for request in self.asked)

    def take(self, asked: Asked) -> Any:
        with self.changed:
            self.asked.append(asked)
            self.changed.notify_all()
            script = self.answers.get(asked.path)
            if not script:
                return 404, {"error": "NotFound", "message": "nothing is served under this path"}
            return script.popleft() if len(script) > 1 else script[0]


def credential(password: str = PASSWORD) -> str:
    return "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()


@contextmanager
def scripted_admin() -> Iterator[ScriptedAdmin]:
    admin = ScriptedAdmin()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = admin.take(
                Asked(
                    method=self.command,
                    path=url.path,
                    params=dict(parse_qsl(url.query)),
                    body=json.loads(raw) if raw else None,
                    headers=dict(self.headers),
                )
            )
            if answer is CLOSE:
                self.close_connection = True
                return
            status, value, *more = answer
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, text in (more[0] if more else {}).items():
                self.send_header(name, text)
            if status in (301, 307):
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        admin.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield admin
        finally:
            server.shutdown()
            thread.join()
