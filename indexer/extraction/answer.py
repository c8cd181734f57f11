"""What a document's process says, on its way through a pipe."""

from __future__ import annotations

import msgspec

from indexer.citations.reference import Reference


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The references of one document, or the reason why it could not be read."""

    references: list[Reference] = []
    left_out: int = 0  # references beyond those that are taken, at least
    problem: str | None = None
    is_of_machine: bool = False  # whether the problem is not the document's but this machine's
