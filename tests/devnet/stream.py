"""The log behind one subscribeRepos: seqs, replay window, erased accounts.

Owns the order and numbering of events and what a cursor means. Refuses sockets: `subscription.py`
serves the log to them. Seqs rise by one and stay contiguous while live; a deleted account's
earlier events leave gaps, as they do at the real PDS.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from dataclasses import dataclass

from tests.devnet.frames import Event


@dataclass(slots=True)
class Entry:
    """An event under its seq. The message is encoded when it is first sent."""

    seq: int
    event: Event
    _frame: bytes = b""

    @property
    def frame(self) -> bytes:
        """The binary message."""
        if not self._frame:
            self._frame = self.event.frame(self.seq)
        return self._frame


class EventStream:
    """An append-only log of at most `window` events; None keeps all."""

    def __init__(self, window: int | None = None, first_seq: int = 1) -> None:
        self.window = window
        self.last_seq = first_seq - 1
        self.trimmed_seq: int | None = None  # the newest seq that fell out of the window
        self._seqs: list[int] = []
        self._entries: list[Entry] = []
        self._listeners: set[asyncio.Event] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, event: Event) -> int:
        """Give `event` the next seq and wake the subscribers."""
        self.last_seq += 1
        self._seqs.append(self.last_seq)
        self._entries.append(Entry(self.last_seq, event))
        if self.window is not None and len(self._entries) > self.window:
            self.trim(self.window)
        for listener in self._listeners:
            listener.set()
        return self.last_seq

    def trim(self, keep: int) -> None:
        """Let all but the newest `keep` events fall out of the window."""
        cut = max(0, len(self._entries) - keep)
        if cut:
            self.trimmed_seq = self._seqs[cut - 1]
            del self._entries[:cut], self._seqs[:cut]

    def erase(self, did: str) -> None:
        """Remove the events of a deleted account, as the real PDS does before its last #account."""
        kept = [entry for entry in self._entries if entry.event.did != did]
        self._entries[:] = kept
        self._seqs[:] = [entry.seq for entry in kept]

    def skip(self, count: int) -> None:
        """Leave a gap of `count` seqs."""
        self.last_seq += count

    def rewind(self, seq: int) -> None:
        """Forget everything after `seq`, like a relay restored from a backup."""
        keep = bisect_right(self._seqs, seq)
        del self._entries[keep:], self._seqs[keep:]
        self.last_seq = seq

    def is_outdated(self, cursor: int) -> bool:
        """Whether events after `cursor` have fallen out of the window."""
        return self.trimmed_seq is not None and cursor < self.trimmed_seq

    def after(self, seq: int, limit: int = 200) -> list[Entry]:
        """The next events after `seq`, at most `limit`."""
        start = bisect_right(self._seqs, seq)
        return self._entries[start : start + limit]

    def behind(self, seq: int) -> int:
        """Number of events after `seq`."""
        return len(self._seqs) - bisect_right(self._seqs, seq)

    def listen(self) -> asyncio.Event:
        """An event that is set by every append until `unlisten`."""
        listener = asyncio.Event()
        self._listeners.add(listener)
        return listener

    def unlisten(self, listener: asyncio.Event) -> None:
        """Stop waking `listener`."""
        self._listeners.discard(listener)
