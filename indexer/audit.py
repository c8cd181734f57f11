"""The audit log: what admins did, and tried to do. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditDraft:
    """An admin call about to be carried out."""

    actor: str  # DID
    action: str  # NSID
    target: str | None  # what it is about: a DID, URI, URL or id
    details: str  # its input as JSON text, shortened


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """A row of the audit log."""

    id: int
    at: float  # unix seconds
    actor: str
    action: str
    target: str | None
    details: str
    outcome: str  # started, ok, interrupted, or the name of the error
