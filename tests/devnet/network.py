"""The devnet: one PLC directory, some PDSes and a relay on loopback, and what accounts write there.

Owns the truth and the order of events. Every method that acts for an account changes its host's
repo and emits exactly the events that the real PDS emits for it. All of them are plain functions
that finish before the next turn of the event loop, so a test can put any number of changes between
two awaits. What happens to an account as a whole is in `lifecycle.py`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from random import Random
from types import TracebackType
from typing import Self

from tests.devnet import lifecycle
from tests.devnet.account import Account, Change, Written
from tests.devnet.car import write_car
from tests.devnet.cbor import RAW, JsonValue, cid_of, cid_text, decode, encode, from_json, to_json
from tests.devnet.clock import Now, TidClock
from tests.devnet.faults import ACCOUNT, FaultKind, FaultSchedule
from tests.devnet.frames import Event, commit_event, sync_event
from tests.devnet.keys import derive_key
from tests.devnet.pds import Hosting, Pds
from tests.devnet.plc import Identity, PlcDirectory
from tests.devnet.records import COLLECTIONS, realistic_record, record_key
from tests.devnet.relay import Relay
from tests.devnet.repo import Commit, Repo, Write
from tests.devnet.serving import Server
from tests.devnet.webdid import WebDids


class Devnet:
    """The network. Use as an async context manager; everything is gone at its end."""

    def __init__(
        self,
        seed: int = 0,
        *,
        pds_count: int = 2,
        now: Now = time.time,
        window: int | None = None,
        is_plc_legacy: bool = False,
    ) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.now = now
        self.faults = FaultSchedule(Random(seed + 1))
        self.accounts: dict[str, Account] = {}
        self.plc = PlcDirectory(seed, now, self.faults, is_legacy=is_plc_legacy)
        self.plc_server = Server("plc", self.faults)
        self.plc.serve(self.plc_server)
        self.web_dids = WebDids(self.faults)
        self.pds = [
            Pds(index, self.faults, self.resolve_handle, self.document, window)
            for index in range(pds_count)
        ]
        self.relay = Relay(
            self.pds,
            self.faults,
            signing_key=lambda did: self.accounts[did].key,
            home=self.home,
            rng=Random(seed + 2),
            window=window,
        )
        self._numbers = itertools.count(1)

    async def __aenter__(self) -> Self:
        for server in self._servers():
            await server.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for server in (*self._servers(), *self.web_dids.servers):
            await server.stop()

    @property
    def plc_url(self) -> str:
        """`identity.plc_url`."""
        return self.plc_server.url

    @property
    def relay_url(self) -> str:
        """`firehose.url`: ws://."""
        return self.relay.ws_url

    @property
    def relay_http_url(self) -> str:
        """`network.relay_url`."""
        return self.relay.server.url

    @property
    def handle_resolver_url(self) -> str:
        """`identity.handle_resolver_url`: there is no DNS."""
        return self.pds[0].url

    def addresses(self) -> dict[str, JsonValue]:
        """Every URL, for a process of its own."""
        return {
            "plc": self.plc_url,
            "relay": self.relay_url,
            "relay_http": self.relay_http_url,
            "handle_resolver": self.handle_resolver_url,
            "pds": [pds.url for pds in self.pds],
            "dids": [*self.accounts],
        }

    # Accounts

    async def create_account(
        self,
        pds: int = 0,
        key: str = "k256",
        *,
        handle: str | None = None,
        method: str = "plc",
        announce: bool = True,
    ) -> Account:
        """A new account with an empty repo on host `pds`. `key`: k256 or p256; `method`: plc, web.

        With `announce` the host emits #identity, #account, #commit and #sync as one.
        """
        number = next(self._numbers)
        did = await self.web_dids.open() if method == "web" else self.plc.new_did(number)
        handle = handle or f"user{number}.{self.pds[pds].handle_domain}"
        tids = TidClock(self.now, self.seed * 1000 + number)
        signing_key = derive_key(key, self.seed, "account", number, 0)
        account = Account(did, handle, pds, signing_key, tids, number)
        self.accounts[did] = account
        self.publish(account)
        lifecycle.open_repo(self, account, announce=announce)
        return account

    def set_account_status(self, account: Account, status: str) -> None:
        """Make an account active, deactivated, takendown, suspended or deleted."""
        lifecycle.set_status(self, account, status)

    def change_handle(self, account: Account, handle: str) -> None:
        """Give the account another handle: a PLC operation and one #identity."""
        lifecycle.change_handle(self, account, handle)

    def rotate_key(self, account: Account, key: str | None = None) -> None:
        """Give the account a new signing key. Its latest commit stays signed by the old one."""
        lifecycle.rotate_key(self, account, key)

    def migrate(self, account: Account, pds: int, *, handle: str | None = None) -> None:
        """Move the account to another host, with a new key, as the recording shows it."""
        lifecycle.migrate(self, account, pds, handle)

    # Records

    def create(
        self, account: Account, collection: str, value: JsonValue, rkey: str | None = None
    ) -> Written:
        """Create a record of ATProto JSON. Without `rkey`: `self`, the node's id, or a new TID."""
        rkey = rkey or record_key(collection, value) or account.tids.next()
        return self._write_one(account, Change("create", collection, rkey, value))

    def create_raw(
        self,
        account: Account,
        collection: str,
        block: bytes,
        rkey: str | None = None,
        *,
        is_readable: bool = False,
    ) -> Written:
        """Create a record of any bytes, such as a PDS that checks nothing would accept."""
        rkey = rkey or account.tids.next()
        change = Change("create", collection, rkey, block=block, is_readable=is_readable)
        return self._write_one(account, change)

    def update(self, account: Account, collection: str, rkey: str, value: JsonValue) -> Written:
        """Replace an existing record."""
        return self._write_one(account, Change("update", collection, rkey, value))

    def delete(self, account: Account, collection: str, rkey: str) -> Commit:
        """Delete an existing record."""
        return self.apply_writes(account, [Change("delete", collection, rkey)])

    def apply_writes(self, account: Account, changes: Iterable[Change]) -> Commit:
        """All changes in one commit, in order; the same path may come twice. None: empty commit."""
        writes = [
            Write(change.action, change.path, change.encoded(), change.is_readable)
            for change in changes
        ]
        commit = self.repo(account).commit(writes)
        self.emit(account.pds, commit_event(account.did, commit, self.now()))
        self._misbehave(account)
        return commit

    def import_records(
        self,
        account: Account,
        n: int = 0,
        collections: Iterable[str] = COLLECTIONS,
        *,
        records: Iterable[tuple[str, JsonValue]] = (),
        announce: bool = True,
    ) -> None:
        """Put many records into a repo without any #commit, as importRepo does.

        `n` seeded records take turns among `collections`; `records` are (path, value) pairs beside
        them. With `announce` a #sync follows, whose rev is newer than that of the commit inside.
        """
        repo = self.repo(account)
        repo.bulk_put(itertools.chain(self._seeded(account, n, collections), _blocks(records)))
        repo.host_rev = account.tids.next()
        if announce:
            self.emit_sync(account)

    def add_blob(self, account: Account, content: bytes, mime_type: str) -> JsonValue:
        """Upload a blob; returns the value by which a record refers to it."""
        cid = cid_text(cid_of(content, RAW))
        self.hosting(account).blobs[cid] = (mime_type, content)
        size = len(content)
        return {"$type": "blob", "ref": {"$link": cid}, "mimeType": mime_type, "size": size}

    def take_down_record(self, account: Account, collection: str, rkey: str) -> None:
        """Hide a record from `repo.getRecord` and `listRecords`. There is no event for it."""
        self.hosting(account).hidden.add(f"{collection}/{rkey}")

    # Events

    def emit(self, pds: int, event: Event) -> None:
        """Put an event into the streams of a host and of the relay."""
        self.pds[pds].emit(event)
        self.relay.receive(event)

    def emit_sync(self, account: Account, rev: str | None = None) -> None:
        """A #sync of the repo as it is, under the host's rev or `rev`."""
        event = sync_event(self.repo(account), self.now())
        body = event.body if rev is None else {**event.body, "rev": rev}
        self.emit(account.pds, Event("#sync", account.did, body))

    # Truth

    def home(self, did: str) -> Pds | None:
        """The host that the DID's document names."""
        account = self.accounts.get(did)
        return None if account is None else self.pds[account.pds]

    def hosting(self, account: Account) -> Hosting:
        """The account at its own host."""
        return self.pds[account.pds].hosted[account.did]

    def repo(self, account: Account) -> Repo:
        """The repo at the account's own host."""
        return self.hosting(account).repo

    def is_visible(self, account: Account) -> bool:
        """Whether an index may show the account."""
        return not account.is_deleted and self.hosting(account).status is None

    def cids(self, account: Account) -> Iterator[tuple[str, str]]:
        """(path, CID text) of every record."""
        for path, cid in self.repo(account).records.items():
            yield path, cid_text(cid)

    def records(
        self, account: Account, is_wanted: Callable[[str], bool] = bool
    ) -> Iterator[tuple[str, str, JsonValue]]:
        """(path, CID text, value) of the wanted records; None for a value that cannot be read."""
        repo = self.repo(account)
        for path, cid in repo.records.items():
            if is_wanted(path):
                is_readable = cid not in repo.unreadable
                value = to_json(decode(repo.blocks[cid].data)) if is_readable else None
                yield path, cid_text(cid), value

    def car(self, account: Account) -> bytes:
        """The whole repo as it is now: keep it, and it is a stale answer for a fault."""
        repo = self.repo(account)
        return write_car([repo.commit_cid], repo.snapshot())

    def resolve_handle(self, handle: str) -> str | None:
        """The DID that has claimed `handle`."""
        for account in self.accounts.values():
            if account.handle == handle and not account.is_deleted:
                return account.did
        return None

    def document(self, did: str) -> JsonValue:
        """The current DID document; None if there is none."""
        documents = self.web_dids if did.startswith("did:web:") else self.plc
        return documents.document(did)

    def publish(self, account: Account) -> None:
        """Make the DID document say what the account is now."""
        url = self.pds[account.pds].url
        identity = Identity(account.did, account.handle, account.key, url)
        documents = self.web_dids if account.did.startswith("did:web:") else self.plc
        documents.publish(identity)

    def _servers(self) -> list[Server]:
        return [self.plc_server, *(pds.server for pds in self.pds), self.relay.server]

    def _write_one(self, account: Account, change: Change) -> Written:
        commit = self.apply_writes(account, [change])
        cid = commit.ops[0].cid
        assert cid is not None
        uri = f"at://{account.did}/{change.path}"
        return Written(uri, change.collection, change.rkey, cid_text(cid), commit)

    def _seeded(
        self, account: Account, n: int, collections: Iterable[str]
    ) -> Iterator[tuple[str, bytes]]:
        for collection, _ in zip(itertools.cycle(collections), range(n), strict=False):
            value = realistic_record(self.rng, collection, did=account.did)
            rkey = record_key(collection, value) or account.tids.next()
            yield f"{collection}/{rkey}", encode(from_json(value))

    def _misbehave(self, account: Account) -> None:
        """Let what is scheduled to happen beside a commit of this account happen."""
        if not self.faults.scheduled:
            return
        fault = self.faults.take(ACCOUNT, service="pds", host=account.pds, did=account.did)
        if fault is None:
            return
        if fault.kind is FaultKind.EMPTY_COMMIT:
            self.apply_writes(account, [])
        elif fault.kind is FaultKind.SYNC_REV_DIFFERS:
            self.repo(account).host_rev = account.tids.next()
            self.emit_sync(account)
        else:
            collection = fault.text("in_collection", "pub.chive.graph.node")
            rkey = f"twice-{account.tids.next()}"
            pattern = fault.text("pattern", "create+update").split("+")
            if pattern[0] != "create":
                value = realistic_record(self.rng, collection, did=account.did)
                self.apply_writes(account, [Change("create", collection, rkey, value)])
            self.apply_writes(
                account,
                [
                    Change(
                        action,
                        collection,
                        rkey,
                        realistic_record(self.rng, collection, did=account.did),
                    )
                    for action in pattern
                ],
            )


def _blocks(records: Iterable[tuple[str, JsonValue]]) -> Iterator[tuple[str, bytes]]:
    for path, value in records:
        yield path, encode(from_json(value))
