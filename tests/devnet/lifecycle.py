"""What happens to an account as a whole: opening, status, handle, key, migration, deletion.

Owns the sequences of events that the real PDS was seen to emit for each, in their order. Functions
take the devnet first; `Devnet` offers them as methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.devnet.account import Account
from tests.devnet.frames import account_event, commit_event, identity_event, sync_event
from tests.devnet.keys import derive_key
from tests.devnet.pds import Hosting
from tests.devnet.repo import Repo

if TYPE_CHECKING:
    from tests.devnet.network import Devnet


def open_repo(net: Devnet, account: Account, *, announce: bool) -> None:
    """The empty repo of a new account, with its four events."""
    repo = Repo(account.did, account.key, account.tids)
    at = net.now()
    net.pds[account.pds].hosted[account.did] = Hosting(repo, account.handle, int(at * 1000))
    commit = repo.commit()
    if announce:
        net.emit(account.pds, identity_event(account.did, at, account.handle))
        net.emit(account.pds, account_event(account.did, at))
        net.emit(account.pds, commit_event(account.did, commit, at))
        net.emit(account.pds, sync_event(repo, at))


def set_status(net: Devnet, account: Account, status: str) -> None:
    """Go to `status`. Becoming active lifts a takedown first, then a deactivation."""
    hosting = net.hosting(account)
    if status == "deleted":
        delete(net, account)
    elif status in ("takendown", "suspended"):
        hosting.moderation = status
        _emit_status(net, account)
    elif status == "deactivated":
        hosting.is_deactivated = True
        _emit_status(net, account)
    elif status == "active":
        if hosting.moderation is not None:
            hosting.moderation = None
            _emit_status(net, account)
        if hosting.is_deactivated:
            _activate(net, account, hosting)
    else:
        raise ValueError(f"no account status {status!r}")


def delete(net: Devnet, account: Account) -> None:
    """Delete for good: the host forgets the repo, the DID document stays."""
    del net.pds[account.pds].hosted[account.did]
    account.is_deleted = True
    net.emit(account.pds, account_event(account.did, net.now(), "deleted"))


def change_handle(net: Devnet, account: Account, handle: str) -> None:
    """A PLC operation and one #identity with the new handle."""
    account.handle = handle
    net.hosting(account).handle = handle
    net.publish(account)
    net.emit(account.pds, identity_event(account.did, net.now(), handle))


def rotate_key(net: Devnet, account: Account, curve: str | None) -> None:
    """A PLC operation and one #identity without a handle. The next commit has the new key."""
    _renew_key(net, account, curve or account.key.curve)
    net.repo(account).key = account.key
    net.publish(account)
    net.emit(account.pds, identity_event(account.did, net.now()))


def migrate(net: Devnet, account: Account, pds: int, handle: str | None) -> None:
    """importRepo on the new host, the PLC operation, activation there, deactivation here.

    The imported commit stays signed by the old key, and the new host's #sync has another rev than
    that commit. The old host is heard last.
    """
    old_pds, old = account.pds, net.hosting(account)
    _renew_key(net, account, account.key.curve)
    repo = old.repo.moved_to(account.key)
    account.handle = handle or f"user{account.number}.{net.pds[pds].handle_domain}"
    account.pds = pds
    at = net.now()
    hosting = Hosting(repo, account.handle, int(at * 1000), is_deactivated=True, blobs=old.blobs)
    net.pds[pds].hosted[account.did] = hosting
    net.publish(account)
    net.emit(pds, identity_event(account.did, at))
    _activate(net, account, hosting)
    old.is_deactivated = True
    net.emit(old_pds, account_event(account.did, net.now(), old.status))


def _activate(net: Devnet, account: Account, hosting: Hosting) -> None:
    hosting.is_deactivated = False
    _emit_status(net, account)
    at = net.now()
    net.emit(account.pds, identity_event(account.did, at, account.handle))
    net.emit(account.pds, sync_event(hosting.repo, at))


def _emit_status(net: Devnet, account: Account) -> None:
    status = net.hosting(account).status
    net.emit(account.pds, account_event(account.did, net.now(), status))


def _renew_key(net: Devnet, account: Account, curve: str) -> None:
    account.key = derive_key(curve, net.seed, "account", account.number, account.keys_made)
    account.keys_made += 1
