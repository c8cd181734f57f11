"""A loopback relay on plain sockets, for the misbehaviour that no library offers.

Each connection is served by a script, `async def script(peer)`; the scripts are used in order and
the last one for every further connection. `Peer` writes frames byte by byte as told, and its
socket is a real one, whose full send buffer and RST can be seen.
"""

import asyncio
import base64
import datetime as dt
import hashlib
import ipaddress
import random
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

BINARY, TEXT, CONTINUATION, CLOSE, PING, PONG = 0x2, 0x1, 0x0, 0x8, 0x9, 0xA

DEADLINE_S = 10.0


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """One unmasked websocket frame, as servers send them."""
    first = bytes([(0x80 if fin else 0) | opcode])
    if len(payload) < 126:
        return first + bytes([len(payload)]) + payload
    if len(payload) < 65536:
        return first + struct.pack("!BH", 126, len(payload)) + payload
    return first + struct.pack("!BQ", 127, len(payload)) + payload


def binary(*payloads: bytes) -> bytes:
    return b"".join(frame(BINARY, payload) for payload in payloads)


def closing(code: int | None, reason: str = "") -> bytes:
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason.encode())


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.path = ""
        self.headers: dict[str, str] = {}
        self.is_gone = asyncio.Event()  # the client's end was seen
        self._loop = asyncio.get_running_loop()
        self._unread = b""
        self._offset = 0  # within what send_until_blocked repeats

    async def read_request(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = await self._loop.sock_recv(self.sock, 65536)
            if not piece:
                raise ConnectionError("no request")
            head += piece
        lines = head.decode().split("\r\n")
        self.path = lines[0].split(" ")[1]
        self.headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def upgrade(self, *extra_headers: str, then: bytes = b"") -> None:
        """Answer the handshake as RFC 6455 has it; `then` travels in the same segment."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept}",
            *extra_headers,
        ]
        await self.send("\r\n".join([*lines, "", ""]).encode() + then)

    async def answer(self, status: str, *headers: str, body: bytes = b"<html>") -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
        await self.send("\r\n".join([*lines, "", ""]).encode() + body)

    async def read_frame(self) -> tuple[int, bytes]:
        """(opcode, unmasked payload) of the client's next frame, which is a short one."""
        head = await self._read(2)
        mask = await self._read(4)
        payload = await self._read(head[1] & 0x7F)
        return head[0] & 0x0F, bytes(b ^ mask[i % 4] for i, b in enumerate(payload))

    async def _read(self, size: int) -> bytes:
        while len(self._unread) < size:
            piece = await self._loop.sock_recv(self.sock, 65536)
            if not piece:
                raise ConnectionError("client closed")
            self._unread += piece
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    async def wait_gone(self) -> None:
        """Read until the client has closed or reset the connection."""
        try:
            while await self._loop.sock_recv(self.sock, 65536):
                pass
        except OSError:
            pass
        self.is_gone.set()

    def send_until_blocked(self, data: bytes) -> int:
        """Repeat `data` for ever, as far as the kernel takes it now; bytes that it took."""
        sent = 0
        while True:
            try:
                taken = self.sock.send(data[self._offset :])
            except BlockingIOError:
                return sent
            sent += taken
            self._offset = (self._offset + taken) % len(data)

    def reset(self) -> None:
        """End with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


Script = Callable[[Peer], Awaitable[None]]


class ScriptedRelay:
    """Serves scripts on loopback while entered; a script's own failure fails the test at exit."""

    def __init__(self, *scripts: Script) -> None:
        self.peers: list[Peer] = []
        self._scripts = scripts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"

    async def __aenter__(self):
        self._tasks: list[asyncio.Task[None]] = []
        # Not a task in sock_accept: cancelled at the wrong moment it loses what it has accepted.
        asyncio.get_running_loop().add_reader(self._listener, self._accept)
        return self

    async def __aexit__(self, *exc_info):
        asyncio.get_running_loop().remove_reader(self._listener)
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in self.peers:
            peer.sock.close()  # of a task that was cancelled before its first step
        self._listener.close()
        if exc_info[0] is None:
            for result in results:
                if isinstance(result, Exception):
                    raise result

    def _accept(self) -> None:
        with suppress(BlockingIOError):  # whoever came has gone again
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            script = self._scripts[min(len(self.peers), len(self._scripts) - 1)]
            self.peers.append(Peer(sock))
            self._tasks.append(asyncio.create_task(self._serve(self.peers[-1], script)))

    async def _serve(self, peer: Peer, script: Script) -> None:
        try:
            await peer.read_request()
            await script(peer)
        except (ConnectionError, BrokenPipeError):
            pass  # the client left: what the tests look at is what the client says
        finally:
            peer.sock.close()

    @property
    def paths(self) -> list[str]:
        return [peer.path for peer in self.peers if peer.path]


def streaming(data: bytes = b"", *, hold: bool = True) -> Script:
    """Upgrade, send `data`, then hold the line until the client leaves (or close without FIN)."""

    async def script(peer: Peer) -> None:
        await peer.upgrade()
        await peer.send(data)
        if hold:
            await peer.wait_gone()

    return script


def answering(status: str, *headers: str) -> Script:
    async def script(peer: Peer) -> None:
        await peer.answer(status, *headers)

    return script


class ManualClock:
    """Time that passes when the test says so."""

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self.elapsed = 0.0
        self._wall = wall

    def now(self) -> float:
        return self._wall + self.elapsed

    def monotonic(self) -> float:
        return 5000.0 + self.elapsed

    def advance(self, seconds: float) -> None:
        self.elapsed += seconds

    def set_wall(self, now: float) -> None:
        """Set the wall clock and leave the monotonic one alone."""
        self._wall = now - self.elapsed


class TopRandom(random.Random):
    """Draws the upper end of every range: jitter becomes its ceiling."""

    def uniform(self, a, b):
        return b


async def until(condition: Callable[[], object], step: Callable[[], object] = lambda: None) -> None:
    """Let the loop run until `condition` holds, calling `step` each time round."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            step()
            await asyncio.sleep(0.001)


def open_sockets() -> int:
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own descriptor
            count += str(link.readlink()).startswith("socket:")
    return count


def other_tasks() -> set[asyncio.Task[None]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


@pytest.fixture(autouse=True)
async def nothing_left_behind():
    """After the test: no task and no socket more than before."""
    tasks, sockets = other_tasks(), open_sockets()
    yield
    await until(lambda: other_tasks() <= tasks and open_sockets() <= sockets)


def certificate(tmp_path, host: str = "127.0.0.1") -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(server context, client context that trusts it and nothing else), self-signed for `host`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "relay")])
    now = dt.datetime.now(dt.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "relay.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + cert.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=pem)
