"""A relay that costs next to nothing: `python -m tests.bench.relay --corpus DIR --mix NAME ...`.

It shares two cores with whoever reads it, so all frames are in memory with their websocket
headers before the first client comes; sending one is a seq patched in and a slice handed to the
kernel. One client at a time. It sends as fast as that client reads, or at `--rate` events a
second; the connection stays open after the last frame and is closed when the client closes it.

Speaks JSON lines on stdout (`port`, `client`, `first`, `last`, with monotonic times) and starts
to send at a line on stdin, so that whoever measures can choose the moment.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import struct
import sys
import time
from pathlib import Path

from tests.bench import wire
from tests.bench.corpus import Corpus
from tests.bench.stream import MIXES, SEQ_BASE, FrameFile, Stream

BATCH_FRAMES = 64
BACKLOG_CLIENTS = 4


def tell(**facts: object) -> None:
    """One line to whoever started us."""
    print(json.dumps(facts), flush=True)


class Messages:
    """The frames of a stream as websocket messages, ready to send."""

    def __init__(self, stream: Stream, tracked: FrameFile, foreign: FrameFile) -> None:
        self._frames = stream.frames
        self._tracked = _assembled(tracked, stream.tracked_count)
        self._foreign = _assembled(foreign, len(foreign))

        self.batch_max = min(BATCH_FRAMES, len(self._foreign))
        """Taken at once; a foreign frame has one place to write its seq, so no more than there are."""

    def __len__(self) -> int:
        return len(self._frames)

    def take(self, start: int, stop: int) -> list[memoryview]:
        """Messages by their places in the stream, each with its seq."""
        messages = []
        for place in range(start, stop):
            number = self._frames[place]
            if number >= 0:
                message, seq_at = self._tracked[number]
            else:
                message, seq_at = self._foreign[-1 - number]
            struct.pack_into(">I", message, seq_at, SEQ_BASE + place)
            messages.append(message)
        return messages


def _assembled(frames: FrameFile, count: int) -> list[tuple[memoryview, int]]:
    """(message with its header, position of its seq) of the first `count` frames."""
    body = bytearray()
    places = []
    for number in range(count):
        offset, length, seq_at = frames[number]
        head = wire.header(wire.OPCODE_BINARY, length)
        places.append((len(body), len(body) + len(head) + length, len(head) + seq_at))
        body += head
        body += frames.data[offset : offset + length]
    view = memoryview(body)
    return [(view[start:end], seq_at) for start, end, seq_at in places]


class Client:
    """One websocket connection, from its handshake to its end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._control = wire.ControlFrames()
        self.is_open = False
        self.request: wire.Request | None = None

    def shake_hands(self) -> bool:
        """Whether this is a websocket client; anybody else gets a 404."""
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = self._connection.recv(4096)
            head += chunk
            if not chunk or len(head) > wire.REQUEST_BYTES_MAX:
                return False
        self.request = wire.parse_request(head)
        if self.request is None:
            self._connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return False
        self._connection.sendall(wire.accept_response(self.request))
        self.is_open = True
        return True

    def send(self, messages: list[memoryview]) -> None:
        """Hand messages to the kernel; waits for as long as the client does not read."""
        total = sum(map(len, messages))
        sent = self._connection.sendmsg(messages)
        if sent < total:
            self._connection.sendall(b"".join(messages)[sent:])

    def listen(self, timeout_s: float = 0.0) -> None:
        """Answer pings and a close, if they come within `timeout_s`."""
        while self.is_open and select.select([self._connection], [], [], timeout_s)[0]:
            data = self._connection.recv(4096)
            self.is_open = bool(data)
            for opcode, payload in self._control.feed(data):
                if opcode == wire.OPCODE_PING:
                    self._answer(wire.OPCODE_PONG, payload)
                elif opcode == wire.OPCODE_CLOSE:
                    self._answer(wire.OPCODE_CLOSE, payload)
                    self.is_open = False
            timeout_s = 0.0

    def _answer(self, opcode: int, payload: bytes) -> None:
        self._connection.sendall(wire.header(opcode, len(payload)) + payload)

    def serve(self, messages: Messages, rate: float) -> None:
        """Send the stream from the client's cursor, then wait until the client has gone."""
        cursor = None if self.request is None else self.request.cursor
        start = 0 if cursor is None else max(0, cursor + 1 - SEQ_BASE)
        tell(client=time.monotonic(), cursor=cursor)
        if cursor is None:
            self._await_start()
        tell(first=time.monotonic())
        if rate > 0:
            self._send_paced(messages, start, rate)
        else:
            self._send_flood(messages, start)
        tell(last=time.monotonic())
        while self.is_open:
            self.listen(1.0)

    def _await_start(self) -> None:
        while not select.select([sys.stdin], [], [], 0.0)[0]:
            if not self.is_open:
                raise ConnectionError("the client left before the start")
            select.select([sys.stdin, self._connection], [], [])
            self.listen()
        sys.stdin.readline()

    def _send_flood(self, messages: Messages, start: int) -> None:
        for place in range(start, len(messages), messages.batch_max):
            self.send(messages.take(place, min(place + messages.batch_max, len(messages))))
            self.listen()

    def _send_paced(self, messages: Messages, start: int, rate: float) -> None:
        """One frame at a time at its due time; what fell due while we slept goes together.

        The due time of the frame at `place` is `first + (place - start) / rate`, so that whoever
        measures needs no word about each.
        """
        began = time.monotonic()
        tell(paced_from=began, rate=rate, place=start)
        place = start
        while place < len(messages) and self.is_open:
            due = start + int((time.monotonic() - began) * rate) + 1
            if due > place:
                due = min(due, len(messages), place + messages.batch_max)
                self.send(messages.take(place, due))
                place = due
                self.listen()
            time.sleep(max(0.0, began + (place - start) / rate - time.monotonic()))


def main() -> None:
    """Serve one stream until told to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--mix", choices=sorted(MIXES), required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--rate", type=float, default=0.0, help="events a second; 0 is no limit")
    arguments = parser.parse_args()
    corpus = Corpus.load(arguments.corpus)
    stream = corpus.stream(MIXES[arguments.mix], arguments.events)
    messages = Messages(stream, corpus.frames(stream.mix.sequence), corpus.frames("foreign"))
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG_CLIENTS) as server:
        tell(port=server.getsockname()[1], events=len(messages))
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection:
                client = Client(connection)
                try:
                    if client.shake_hands():
                        client.serve(messages, arguments.rate)
                except ConnectionError as error:
                    tell(lost=str(error))


if __name__ == "__main__":
    main()
