"""HTTP servers on 127.0.0.1, byte by byte, for what no library would send.

Each request is answered by a script, `async def script(wire)`; the scripts are used in order, the
last one for every further request. What was asked is kept, so that a test can say that its fault
has really happened.
"""

import asyncio
import datetime as dt
import ipaddress
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DEADLINE_S = 10.0


class SteppedClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


@dataclass
class Wire:
    """The server's end of one request."""

    path: str
    headers: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))
        await self.writer.drain()

    async def until_gone(self) -> None:
        """Wait until the client has closed its end."""
        while await self.reader.read(65536):
            pass

    def reset(self) -> None:
        """End the connection with an RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Wire], Awaitable[None]]


class Loopback:
    """Use as an async context manager."""

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> None:
        self._scripts = scripts
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self.asked: list[tuple[str, dict[str, str]]] = []
        """(path with query, headers) of each request."""
        self.connections = 0
        self.errors: list[Exception] = []

    @property
    def open_connections(self) -> int:
        return len(self._tasks)

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        assert not self.errors, self.errors

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while (head := await _head(reader)) is not None:
                path, headers = head
                script = self._scripts[min(len(self.asked), len(self._scripts) - 1)]
                self.asked.append((path, headers))
                await script(Wire(path, headers, reader, writer))
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client may go at any byte, and the test may end
        except Exception as error:
            self.errors.append(error)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def all_gone(self) -> None:
        """Wait until no client is connected."""
        await until(lambda: not self._tasks)


async def _head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]] | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode().split("\r\n")
    pairs = (line.split(": ", 1) for line in lines if line)
    return first.split(" ")[1], {name.lower(): value for name, value in pairs}


def answer(
    body: bytes | str = b"",
    *,
    status: int = 200,
    kind: str = "application/json",
    length: int | None = None,
    **headers: str,
) -> bytes:
    """A whole response; `length` is a Content-Length that lies. Underscores become hyphens."""
    data = body.encode() if isinstance(body, str) else body
    fields = {
        "Content-Type": kind,
        "Content-Length": str(len(data) if length is None else length),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode() + data


def chunked(kind: str = "application/vnd.ipld.car", **headers: str) -> bytes:
    """The head of a response of unknown length."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n{lines}\r\n"
    ).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def answering(*args: object, **options: object) -> Script:
    """A script that sends one response, see `answer`."""
    data = answer(*args, **options)  # type: ignore[arg-type]

    async def script(wire: Wire) -> None:
        await wire.send(data)

    return script


def routing(routes: dict[str, bytes]) -> Script:
    """Answers by path without query; an unknown one is a 404 of a PLC directory."""
    missing = answer('{"message":"DID not registered"}', status=404)

    async def script(wire: Wire) -> None:
        await wire.send(routes.get(wire.path.partition("?")[0], missing))

    return script


async def hanging(wire: Wire) -> None:
    """Says nothing until the client has gone."""
    await wire.until_gone()


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, not for a time."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.002)


def no_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def self_signed(folder: Path) -> ssl.SSLContext:
    """A server's TLS with a certificate for 127.0.0.1 that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nobody")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - dt.timedelta(days=1))
    builder = builder.not_valid_after(now + dt.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context
