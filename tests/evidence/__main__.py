"""`python -m tests.evidence [--bench FILE] [--add FILE ...]`: make the pages and plots anew."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from tests.bench.report import machine_line
from tests.evidence.pages import RESULTS, load, made, take_bench


def main() -> int:
    """Take over what is given, then write every page and plot."""
    parser = argparse.ArgumentParser(prog="python -m tests.evidence", description=__doc__)
    parser.add_argument("--bench", type=Path, help="bench-results.json of a full run, or of rows")
    parser.add_argument("--add", type=Path, nargs="*", default=[], help="results of campaigns")
    options = parser.parse_args()
    if options.bench is not None:
        take_bench(options.bench, machine_line())
    for path in options.add:
        campaign = json.loads(path.read_text())["campaign"]
        shutil.copyfile(path, RESULTS / f"{campaign}.json")
    for path, text in made(load()).items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
