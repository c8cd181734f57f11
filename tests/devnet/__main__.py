"""The devnet by itself: `python -m tests.devnet --seed N --rate R`.

Prints one JSON line with its addresses and stays up, with steady activity, until SIGTERM or
SIGINT.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys

from tests.devnet.activity import Activity
from tests.devnet.network import Devnet


async def serve(options: argparse.Namespace) -> None:
    """Run until a signal."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with Devnet(options.seed, window=options.window) as net:
        activity = Activity(net, options.rate, accounts_max=options.accounts, is_calm=options.calm)
        await activity.steps(options.history)
        sys.stdout.write(json.dumps(net.addresses()) + "\n")
        sys.stdout.flush()
        async with asyncio.TaskGroup() as tasks:
            traffic = tasks.create_task(activity.run(), name="devnet.activity")
            await stopped.wait()
            traffic.cancel()


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.devnet", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=10.0, help="deeds a second")
    parser.add_argument("--accounts", type=int, default=20, help="most accounts")
    parser.add_argument("--history", type=int, default=200, help="deeds before the line is printed")
    parser.add_argument("--window", type=int, default=100_000, help="events kept for replay")
    parser.add_argument("--calm", action="store_true", help="no changes of keys, handles, hosts")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
