"""The code behind each XRPC method: a module a subject, each giving NSID -> handler."""

from __future__ import annotations

from collections.abc import Mapping

from admin_api.handlers.audit import audit_handlers
from admin_api.handlers.backfills import backfill_handlers
from admin_api.handlers.daemon import daemon_handlers
from admin_api.handlers.dead_letters import dead_letter_handlers
from admin_api.handlers.denials import denial_handlers
from admin_api.handlers.gaps import gap_handlers
from admin_api.handlers.hosts import host_handlers
from admin_api.handlers.repos import repo_handlers
from admin_api.handlers.status import status_handlers
from admin_api.ports import AdminPorts
from admin_api.xrpc import Handler, LexiconBroken
from indexer.clock import Clock

METHODS = frozenset(
    {
        *(
            f"pub.chive.admin.{name}"
            for name in (
                "cancelBackfill", "dismissDLQEntry", "getAuditLog", "getBackfillHistory",
                "getBackfillStatus", "getFirehoseStatus", "getOverview", "getSystemHealth",
                "listDLQEntries", "listPDSes", "purgeOldDLQ", "rescanPDS", "retryAllDLQ",
                "retryDLQEntry",
                "triggerBackfill", "triggerCitationExtraction", "triggerDIDSync",
                "triggerFreshnessScan", "triggerFullReindex", "triggerGovernanceSync",
                "triggerPDSScan",
            )
        ),
        *(
            f"pub.chive.indexer.{name}"
            for name in (
                "allow", "createBackup", "deny", "getRepoState", "listDenied", "listGaps",
                "listRepos", "pauseStream", "resetCursor", "resumeStream",
            )
        ),
    }
)  # fmt: skip
"""All methods that are served; for documents and tests to be held against."""


def all_handlers(ports: AdminPorts, *, clock: Clock) -> Mapping[str, Handler]:
    """NSID -> handler, of every method in `METHODS`."""
    handlers = {
        **backfill_handlers(ports.backfills, ports.hosts, clock=clock),
        **status_handlers(ports.status, ports.notes, clock=clock),
        **dead_letter_handlers(ports.letters),
        **audit_handlers(ports.audit),
        **repo_handlers(ports.repos),
        **host_handlers(ports.hosts),
        **daemon_handlers(ports.stream, ports.backups),
        **gap_handlers(ports.gaps, ports.cursors),
        **denial_handlers(ports.denials),
    }
    if handlers.keys() != METHODS:
        odd = ", ".join(sorted(handlers.keys() ^ METHODS))
        raise LexiconBroken(f"METHODS and handlers differ: {odd}")
    return handlers
