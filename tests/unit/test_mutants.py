"""The list of mutants fits the code; `python -m tests.mutants` tries them all."""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest

from tests.mutants import ROOT, Mutant, copied_tree, load_mutants, survives
from tests.unit.test_faults_table import TESTS, functions_of

MUTANTS = load_mutants()
GROUPS = ("verification", "cursor", "planning", "state_machine", "auth")
MUTANTS_MIN = 40
TURN = int(os.environ.get("MUTANT_TURN", time.time() // 86_400))
"""Whose turn it is: others every day, and the same again with the variable."""


def test_every_area_has_its_mutants():
    counts = Counter(mutant.group for mutant in MUTANTS)
    assert len(MUTANTS) >= MUTANTS_MIN and set(counts) == set(GROUPS)
    assert min(counts.values()) >= 8, counts
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_the_line_of_a_mutant_is_there_once_and_so_are_its_tests(mutant: Mutant):
    changed = mutant.applied((ROOT / mutant.file).read_text())
    compile(changed, mutant.file, "exec")
    assert mutant.tests and "\n" not in mutant.old + mutant.new
    for node in mutant.tests:
        file, name = node.split("::")
        assert name in functions_of(TESTS / file), node


def test_the_mutant_of_the_day_is_noticed():
    mutant = MUTANTS[TURN % len(MUTANTS)]
    with copied_tree() as copy:
        assert survives(mutant, copy) is None, f"MUTANT_TURN={TURN}: {mutant.name}"
