"""The commands that call a running daemon."""

from __future__ import annotations

from indexer.cli.dead_letters import dlq
from indexer.cli.denials import allow, denied, deny
from indexer.cli.gaps import gaps, reset_cursor
from indexer.cli.operations import backfill, cancel, operations
from indexer.cli.status import status
from indexer.cli.stream import pause, resume

REMOTE_COMMANDS = (
    status, backfill, operations, cancel, dlq, pause, resume, gaps, reset_cursor, deny, allow,
    denied,
)  # fmt: skip
