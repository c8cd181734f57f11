"""The table of faults is whole, and every test that it names is there and runs with the others."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
CATALOGUE = TESTS.parents[1] / "shared/faults.md"
GROUPS = {
    "F": 28, "Q": 11, "C": 16, "R": 15, "M": 18, "S": 14, "I": 17, "H": 17, "X": 12, "A": 23,
    "D": 16, "P": 12, "K": 5, "L": 8,
}  # fmt: skip
SHOWN_MIN = 190
ELSEWHERE = ("ops/", "interop/test_real_")  # these need what not every machine has

# TOML itself refuses a case that stands there twice.
TABLE: dict[str, dict[str, list[str] | dict[str, str]]] = tomllib.loads(
    (TESTS / "faults.toml").read_text()
)
CASES = {name: entry for group in TABLE.values() for name, entry in group.items()}
SHOWN = {name: entry for name, entry in CASES.items() if isinstance(entry, list)}


@cache
def functions_of(path: Path) -> frozenset[str]:
    """Names of the functions at the top of a test module."""
    tree = ast.parse(path.read_text())
    return frozenset(
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_every_case_has_its_place():
    expected = {
        group: [f"{group}{n}" for n in range(1, last + 1)] for group, last in GROUPS.items()
    }
    assert {group: list(cases) for group, cases in TABLE.items()} == expected


def test_the_catalogue_has_no_other_cases():
    if not CATALOGUE.exists():
        pytest.skip("../shared/faults.md is absent")
    listed = re.findall(r"^- ([A-Z]\d+) ", CATALOGUE.read_text(), re.MULTILINE)
    assert listed == list(CASES)


@pytest.mark.parametrize("case", SHOWN)
def test_the_tests_of_a_case_exist_and_run_with_the_others(case: str):
    assert SHOWN[case]
    for node in SHOWN[case]:
        file, name = node.split("::")
        assert not file.startswith(ELSEWHERE), node
        assert name.startswith("test_") and name in functions_of(TESTS / file), node


def test_few_cases_have_no_test_and_each_of_those_has_a_reason():
    assert len(SHOWN) >= SHOWN_MIN
    for name, entry in CASES.items():
        if isinstance(entry, dict):
            assert entry.keys() == {"absent"} and len(entry["absent"]) > 40, name
