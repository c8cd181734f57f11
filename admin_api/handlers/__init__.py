"""The code behind each XRPC method: a module a subject, each giving NSID -> handler."""

from __future__ import annotations

from collections.abc import Mapping

from admin_api.handlers.audit import audit_handlers
from admin_api.handlers.backfills import backfill_handlers
from admin_api.handlers.daemon import daemon_handlers
from admin_api.handlers.dead_letters import dead_letter_handlers
from admin_api.handlers.repos import repo_handlers
from admin_api.handlers.status import status_handlers
from admin_api.ports import AdminPorts
from admin_api.xrpc import Handler
from indexer.clock import Clock


def all_handlers(ports: AdminPorts, *, clock: Clock) -> Mapping[str, Handler]:
    """NSID -> handler, of every method that is served."""
    return {
        **backfill_handlers(ports.backfills, clock=clock),
        **status_handlers(ports.status, clock=clock),
        **dead_letter_handlers(ports.letters),
        **audit_handlers(ports.audit),
        **repo_handlers(ports.repos),
        **daemon_handlers(ports.stream, ports.backups),
    }
