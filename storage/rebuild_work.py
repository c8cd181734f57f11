"""What a rebuild has done outside of the writer: by a thread of the daemon, or by processes.

Each piece of work is a value that can be sent to a process, and so is what comes of it.
"""

from __future__ import annotations

import errno
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import msgspec

from indexer.errors import ChiveIndexerError, LocalBusy, LocalFault
from storage.parity import Span, difference
from storage.reading import read_only
from storage.rebuild_parts import Part, Preparing, Tell, make_part
from storage.search_build import Source, append, begin_index, check_index, index_kb, merge_some
from storage.sqlite_errors import is_damage, translated

SHORTAGES = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM}
)
"""What a machine may be short of for a while."""


APPEND_S = 5.0
"""A part with much text is added to the search index in so many steps, each of its own."""


class WorkFailed(ChiveIndexerError):
    """A piece of work could not be done: the message says why."""


class BeginIndex(msgspec.Struct, frozen=True, tag=True):
    """Make an empty search index."""

    file: str
    table: str


class Append(msgspec.Struct, frozen=True, tag=True):
    """Add the records of a part that has been taken over to the search index."""

    file: str
    table: str
    part: str  # file of the part
    after_id: int  # the last record of the part that is there already


class Merge(msgspec.Struct, frozen=True, tag=True):
    """Merge some segments of the search index."""

    file: str
    table: str
    is_first: bool


class Check(msgspec.Struct, frozen=True, tag=True):
    """Hold the finished search index against its rows: one statement, however large it is."""

    file: str
    table: str


class Compare(msgspec.Struct, frozen=True, tag=True):
    """Hold a span of records against their rows in a generation in the making."""

    number: int  # of the generation
    span: Span


Work = Part | BeginIndex | Append | Merge | Check | Compare


class Told(msgspec.Struct, frozen=True, tag=True):
    """How much more of a piece of work is done; of what cannot tell, an outcome is soon there."""

    count: int  # of a part, an append or a comparison records, of a check shares


class Outcome(msgspec.Struct, frozen=True, tag=True):
    """What came of a piece of work."""

    record_ids: list[int] = []  # of a part
    upto_id: int = 0  # the last record that was added to the search index, if there are more
    is_more: bool = False  # whether there is more of the same to do
    size_kb: int = 0  # of what there is in the search index, after a merge
    difference: str | None = None  # what a comparison has found first
    problem: str | None = None
    is_busy: bool = False  # a problem that passes
    is_fault: bool = False  # a problem of the index, from which it was read

    def checked(self) -> Outcome:
        """Itself. Raises `LocalBusy`, `LocalFault` or `WorkFailed` where there is a problem."""
        if self.problem is None:
            return self
        if self.is_fault:
            raise LocalFault(self.problem)
        raise (LocalBusy if self.is_busy else WorkFailed)(self.problem)


def failure(error: OSError, what: str) -> LocalBusy | WorkFailed:
    """What it comes to that something could not be had of the machine."""
    family = LocalBusy if error.errno in SHORTAGES else WorkFailed
    return family(f"{what}: {error.strerror}")


def insist_on_file(file: str) -> None:
    """Raise `WorkFailed` where a file of the rebuild is not there: no waiting brings it back."""
    if not Path(file).exists():
        raise WorkFailed(f"{file} is gone: somebody has removed it while the rebuild was at work")


def perform(work: Work, index: Path, preparing: Preparing, tell: Tell) -> Outcome:
    """Do it, now, and say what came of it. `index` is the file of the daemon's index.

    `tell` may raise `WorkFailed`, which ends the work.
    """
    try:
        for file in _needed(work):
            insist_on_file(file)
        return _perform(work, index, preparing, tell)
    except WorkFailed as error:
        return Outcome(problem=str(error))
    except sqlite3.Error as error:
        fault = translated(error)
        if isinstance(fault, LocalBusy):
            return Outcome(problem=str(fault), is_busy=True)
        # What makes a part writes a file as well, which may be gone.
        is_fault = isinstance(work, Compare) or (isinstance(work, Part) and is_damage(error))
        return Outcome(problem=str(fault), is_fault=is_fault)
    except OSError as error:
        return Outcome(problem=str(error), is_busy=error.errno in SHORTAGES)


def _needed(work: Work) -> tuple[str, ...]:
    """Files and folders without which the work cannot be done."""
    match work:
        case Part() | BeginIndex():
            return (str(Path(work.file).parent),)
        case Append():
            return (work.file, work.part)
        case Merge() | Check():
            return (work.file,)
        case Compare():
            return ()


def _perform(work: Work, index: Path, preparing: Preparing, tell: Tell) -> Outcome:
    match work:
        case Part():
            with closing(read_only(index)) as connection:
                record_ids, is_more = make_part(connection, work, preparing, tell)
                return Outcome(record_ids=record_ids, is_more=is_more)
        case BeginIndex():
            begin_index(work.file, work.table, preparing.search)
            return Outcome()
        case Append():
            source = Source(index, Path(work.part), work.after_id)
            until = time.monotonic() + APPEND_S

            def added(rows: int) -> bool:
                tell(rows)
                return time.monotonic() > until

            upto_id = append(work.file, work.table, preparing.search, source, added)
            return Outcome(upto_id=upto_id or 0, is_more=upto_id is not None)
        case Merge():
            is_more = merge_some(work.file, work.table, is_first=work.is_first)
            return Outcome(is_more=is_more, size_kb=index_kb(work.file))
        case Check():
            return _checked(work, tell)
        case Compare():
            return Outcome(difference=difference(index, work.number, work.span, preparing, tell))


def _checked(work: Check, tell: Tell) -> Outcome:
    try:
        check_index(work.file, work.table, tell)
    except sqlite3.DatabaseError as error:
        fault = translated(error)
        if isinstance(fault, LocalBusy):
            raise
        return Outcome(problem=f"the new search index is damaged: {fault}")
    return Outcome()
