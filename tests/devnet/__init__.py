"""A simulated ATProto network on loopback: PLC directory, PDSes and relay in one event loop.

Owns real signed repos and serves them over the real protocols, with faults on schedule. Its
encoders are its own: nothing here imports the indexer, so the two sides of a test cannot share a
mistake. The invariant: with the same seed and a `ManualClock`, every frame is the same bytes.

    async with Devnet(seed=1) as net:
        account = await net.create_account()
        net.create(account, "pub.chive.eprint.userTag", {"eprintUri": ..., "tag": "x", ...})
        net.faults.schedule(FaultKind.BAD_SIGNATURE, did=account.did)
"""

from tests.devnet.account import Account, Change, Written
from tests.devnet.activity import Activity
from tests.devnet.clock import ManualClock
from tests.devnet.faults import Fault, FaultKind, FaultSchedule
from tests.devnet.network import Devnet
from tests.devnet.records import COLLECTIONS, FOREIGN, realistic_record, unreadable_blocks

__all__ = [
    "COLLECTIONS",
    "FOREIGN",
    "Account",
    "Activity",
    "Change",
    "Devnet",
    "Fault",
    "FaultKind",
    "FaultSchedule",
    "ManualClock",
    "Written",
    "realistic_record",
    "unreadable_blocks",
]
