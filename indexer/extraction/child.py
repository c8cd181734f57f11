"""`python -m indexer.extraction.child FORMAT`: one document from standard input, then the end.

Runs as a process of its own. The answer on standard output is JSON: the references, or why there
are none. The walls stand before the first byte of the document is read.
"""

from __future__ import annotations

import codecs
import os
import sys

import msgspec

from indexer.citations.extraction import PDF, references_of_lines, references_of_text
from indexer.citations.packages import Unreadable
from indexer.citations.reference import REFERENCES_MAX
from indexer.extraction.answer import Answer
from indexer.extraction.pdf import pdf_lines
from indexer.extraction.sandbox import NoSandbox, forbid_calls, limit_resources

CHUNK_BYTES = 1 << 20

CODECS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "latin-1", "cp437", "ascii")
"""Python loads these at their first use, which is too late once no file can be opened."""


def main(form: str) -> None:
    """Answer and exit, without a word to anything that an ordinary end would tidy up."""
    limit_resources()
    for name in CODECS:
        codecs.lookup(name)
    try:
        forbid_calls()
        answer = _read(form)
    except NoSandbox as error:
        answer = Answer(
            problem=f"documents cannot be read safely on this machine: {error}", is_of_machine=True
        )
    except MemoryError:
        answer = Answer(problem="it needs too much memory")
    except RecursionError:
        answer = Answer(problem="it is nested too deeply")
    data = memoryview(msgspec.json.encode(answer))
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]
    os._exit(0)


def _read(form: str) -> Answer:
    parts = []
    while part := os.read(sys.stdin.fileno(), CHUNK_BYTES):
        parts.append(part)
    data = b"".join(parts)
    try:
        if form == PDF:
            found = references_of_lines(pdf_lines(data), is_wrapped=True)
        else:
            found = references_of_text(data, form)
    except Unreadable as error:
        return Answer(problem=error.detail)
    return Answer(references=found[:REFERENCES_MAX], left_out=max(len(found) - REFERENCES_MAX, 0))


if __name__ == "__main__":
    main(sys.argv[1])
