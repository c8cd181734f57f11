"""`python -m tests.soak.watcher FILE`: when the saved cursor of a store was first seen to move.

The cursor is saved in the transaction of the events up to it, so the moment at which another
process first reads it is the moment at which they are durable and visible. A process of its own,
so that whoever makes the events does not delay the sight of them. One JSON line a second:
`sightings`, a list of [monotonic seconds, cursor].
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

POLL_S = 0.002
TELL_S = 1.0


def watch(database: Path) -> None:
    """Tell sightings until killed."""
    seen, cursor = -1, -1
    sightings: list[tuple[float, int]] = []
    told = time.monotonic()
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30.0)) as reader:
        while True:
            (version,) = reader.execute("PRAGMA data_version").fetchone()
            if version != seen:
                seen = version
                (saved,) = reader.execute("SELECT max(cursor) FROM firehose").fetchone()
                if saved is not None and saved > cursor:
                    cursor = saved
                    sightings.append((round(time.monotonic(), 4), cursor))
            if time.monotonic() - told > TELL_S:
                told = time.monotonic()
                print(json.dumps({"sightings": sightings}), flush=True)
                sightings = []
            time.sleep(POLL_S)


def main() -> None:
    """Parse the command line and watch."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.watcher", description=__doc__)
    parser.add_argument("database", type=Path)
    watch(parser.parse_args().database)


if __name__ == "__main__":
    main()
