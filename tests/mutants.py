"""Faults put into the code one at a time, each of which the tests must notice.

`python -m tests.mutants [--only NAME] [--jobs N]` copies the tree, and for every entry of
`mutants.toml` changes one line and runs the tests that are named there. It exits with 1 when one
has survived, or when the tests fail without any change. Nothing is changed in the tree itself.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.bench.report import commit, write_campaign

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 120.0
"""A test that a mutant keeps busy for so long has noticed it."""

COPIED = ("indexer", "storage", "admin_api", "tests", "config", "docs", "pyproject.toml")
FAILED = 1  # what pytest exits with when tests ran and some failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One changed line, and the tests (path below tests/ :: function) that must fail for it."""

    group: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def applied(self, text: str) -> str:
        """The file's text with the line changed. Raises `ValueError` where it is not there once."""
        if text.count(self.old) != 1 or self.old == self.new:
            raise ValueError(f"{self.name}: not once in {self.file}: {self.old}")
        return text.replace(self.old, self.new)


def load_mutants() -> list[Mutant]:
    """All of them, in the order of the file."""
    table = tomllib.loads((ROOT / "tests/mutants.toml").read_text())
    return [
        Mutant(group=group, **entry | {"tests": tuple(entry["tests"])})
        for group, entries in table.items()
        for entry in entries
    ]


@contextmanager
def copied_tree() -> Iterator[Path]:
    """A copy of all that the tests need."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        ignored = shutil.ignore_patterns("__pycache__", "recorded", ".*")
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=ignored)
            else:
                shutil.copy(ROOT / name, copy / name)
        yield copy


def run_tests(copy: Path, tests: Sequence[str]) -> tuple[int | None, str]:
    """pytest's exit code and last words; None when it took longer than `TIMEOUT_S`."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += [f"tests/{test}" for test in tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, check=False,
            timeout=TIMEOUT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, (done.stdout + done.stderr)[-2000:]


def survives(mutant: Mutant, copy: Path) -> str | None:
    """Why the mutant counts as not noticed; None when its tests have failed."""
    file = copy / mutant.file
    text = file.read_text()
    try:
        file.write_text(mutant.applied(text))
        code, words = run_tests(copy, mutant.tests)
    except ValueError as error:
        return str(error)
    finally:
        file.write_text(text)
    if code == FAILED or code is None:
        return None
    return "its tests pass" if code == 0 else f"its tests cannot be run ({code}):\n{words}"


def run_campaign(mutants: Sequence[Mutant], jobs: int) -> dict[str, str]:
    """Name -> why it was not noticed, of those that were not."""
    survivors: dict[str, str] = {}
    copies: SimpleQueue[Path] = SimpleQueue()

    def judge(mutant: Mutant) -> None:
        copy = copies.get()
        try:
            flaw = survives(mutant, copy)
        finally:
            copies.put(copy)
        print(f"{'SURVIVED' if flaw else 'noticed'}  {mutant.group}: {mutant.name}", flush=True)
        if flaw is not None:
            survivors[mutant.name] = flaw

    with ExitStack() as stack:
        for _ in range(jobs):
            copies.put(stack.enter_context(copied_tree()))
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(judge, mutants))
    return survivors


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign as the command line says; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", metavar="NAME", help="mutants whose name or group contains this")
    parser.add_argument("--jobs", type=int, default=2, metavar="N")
    parser.add_argument("--report", type=Path, help="write the result as JSON into this file too")
    options = parser.parse_args(arguments)
    mutants = [
        mutant
        for mutant in load_mutants()
        if options.only is None or options.only in f"{mutant.group}: {mutant.name}"
    ]
    if not mutants:
        parser.error(f"no mutant is called {options.only!r}")
    named = sorted({test for mutant in mutants for test in mutant.tests})
    with copied_tree() as copy:
        code, words = run_tests(copy, named)
    if code != 0:
        print(f"the tests fail without any mutant:\n{words}", file=sys.stderr)
        return 1
    measured = commit()
    survivors = run_campaign(mutants, max(options.jobs, 1))
    for name, flaw in survivors.items():
        print(f"{name}: {flaw}", file=sys.stderr)
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} mutants were noticed")
    if options.report is not None:
        write_campaign(
            options.report,
            campaign="mutants",
            title="Mutants",
            command="python -m tests.mutants",
            short_form="tests/unit/test_mutants.py",
            measured=measured,
            passed=not survivors,
            figures={"mutants": len(mutants), "not noticed": len(survivors)},
            targets={"mutants": "at least 40", "not noticed": "at most 0"},
            more={"survivors": survivors},
        )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
