"""A network with one account whose repo is large and hardly in scope: `python -m tests.bench.large_host`.

The devnet, since it serves proofs and single blocks as the real PDS does. Prints one JSON line:
`plc` and `relay` (URLs), `did`, `car_bytes` (size of the whole repo as getRepo gives it).
"""

from __future__ import annotations

import argparse
import asyncio
import json

from tests.devnet import Devnet
from tests.devnet.records import FOREIGN


async def serve(records: int, in_scope: int) -> None:
    """Serve until killed."""
    async with Devnet(seed=1) as net:
        account = await net.create_account()
        net.import_records(account, records - in_scope, [FOREIGN], announce=False)
        net.import_records(account, in_scope)
        facts = {
            "plc": net.plc_url,
            "relay": net.relay_url,
            "did": account.did,
            "car_bytes": len(net.car(account)),
        }
        print(json.dumps(facts), flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, required=True)
    parser.add_argument("--in-scope", type=int, required=True)
    options = parser.parse_args()
    asyncio.run(serve(options.records, options.in_scope))


if __name__ == "__main__":
    main()
