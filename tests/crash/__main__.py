"""The crash campaigns; a failure names its seed, and the same options repeat it.

    python -m tests.crash kills --seeds 2 --kills 500     # at random moments, so many of each store
    python -m tests.crash points --seeds 100              # a death at each named moment
    python -m tests.crash nth --stride 7                  # the N-th call fails, for N = 1, 8, 15 ...
    python -m tests.crash power --cuts 1000               # power is lost at or between syncs
`--first SEED` begins at another seed, `--report FILE` adds the figures to a JSON file.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import logging
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from tests.crash.deaths import run_points
from tests.crash.failing import FAMILIES
from tests.crash.kills import run_store
from tests.crash.nth import run_family
from tests.crash.points import POINTS
from tests.crash.power import run_power
from tests.crash.report import add_run

MEMORY = Path("/dev/shm")
"""Where the stores are, if it is there: a kill asks nothing of a disk, and the disk is everybody's."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    campaigns = parser.add_subparsers(dest="campaign", required=True)
    kills = campaigns.add_parser("kills")
    kills.add_argument("--kills", type=int, default=500, help="of each store")
    points = campaigns.add_parser("points")
    points.add_argument("--only", nargs="*", default=sorted(POINTS), help="names of points")
    nth = campaigns.add_parser("nth")
    nth.add_argument("--families", nargs="*", default=list(FAMILIES), help="kinds of calls")
    nth.add_argument("--begin", type=int, default=1, help="the first N")
    nth.add_argument("--stride", type=int, default=1)
    nth.add_argument("--runs-max", type=int, default=10_000, help="of each family")
    power = campaigns.add_parser("power")
    power.add_argument("--cuts", type=int, default=1000, help="of each recording")
    power.add_argument("--caught-up", type=int, default=50, help="of them with a daemon after")
    for campaign in (kills, points, nth, power):
        campaign.add_argument("--first", type=int, default=1)
        campaign.add_argument("--seeds", type=int, default=1)
        campaign.add_argument("--report", type=Path)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.getLogger("aiohttp.server").setLevel(
        logging.CRITICAL
    )  # it tells of each client's death
    for seed in range(options.first, options.first + options.seeds):
        figures: dict[str, Any] = {"seed": seed}
        try:
            with _folder() as folder:
                figures |= _RUNS[options.campaign](seed, folder, options)
        except Exception as error:
            notes = getattr(error, "__notes__", [])
            figures["failure"] = "\n".join([f"{type(error).__name__}: {error}", *notes])
            raise
        finally:
            print(f"{options.campaign}: {figures}", flush=True)
            if options.report is not None:
                add_run(options.report, options.campaign, figures)
    return 0


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(
        prefix="crash-", dir=MEMORY if MEMORY.is_dir() else None
    ) as folder:
        yield Path(folder)


def _kills(seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    return dataclasses.asdict(asyncio.run(run_store(seed, options.kills, folder)))


def _points(seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    return dataclasses.asdict(asyncio.run(run_points(seed, folder, options.only)))


def _nth(seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    figures = {}
    for name in options.families:
        failures = asyncio.run(
            run_family(
                name, seed, folder,
                first=options.begin, stride=options.stride, runs_max=options.runs_max,
            )
        )  # fmt: skip
        figures[name] = dataclasses.asdict(failures)
        print(f"{name}: {failures}", flush=True)
    return {"families": figures}


def _power(seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    losses = run_power(seed, folder, cuts_max=options.cuts, caught_up_max=options.caught_up)
    return dataclasses.asdict(asyncio.run(losses))


_RUNS = {"kills": _kills, "points": _points, "nth": _nth, "power": _power}


if __name__ == "__main__":
    sys.exit(main())
