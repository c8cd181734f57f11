"""The short form of the fuzz campaign; the long one is `python -m tests.fuzz`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.devnet.cbor import cid_of
from tests.devnet.records import unreadable_blocks
from tests.fuzz.engine import CPU_MS_MAX, Campaign, failure_kind, minimised
from tests.fuzz.mutation import rehashed
from tests.fuzz.report import add_run, document
from tests.fuzz.strict_cbor import ARCHIVE_HEADER, NotCanonical, decode_strict
from tests.fuzz.targets import TARGETS, open_target

INPUTS = {"settings": 50, "citations": 100, "trees": 150}
INPUTS_OF_OTHERS = 250


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_is_sent_is_a_value_or_a_refusal_and_leaves_no_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    target = open_target(name)
    monkeypatch.chdir(tmp_path)
    campaign = Campaign(target, seed="short", folder=tmp_path, command="python -m tests.fuzz")
    outcome = campaign.run(INPUTS.get(name, INPUTS_OF_OTHERS))
    assert not outcome.failures, "\n".join(outcome.failures)
    refused = [verdict for verdict in outcome.verdicts if verdict.startswith("refused")]
    assert outcome.accepted and refused, outcome.table()
    assert outcome.lines_hit > outcome.lines / 8, outcome.table()
    assert outcome.worst_ms <= CPU_MS_MAX
    assert not list(tmp_path.iterdir())


class Brittle:
    """Fails where a byte is 7, and takes too long where one is 8."""

    name = "brittle"
    modules = ()

    def make(self, rng):
        return rng.randbytes(200)

    def check(self, data: bytes) -> str:
        if b"\x07" in data:
            raise KeyError("seven")
        return "accepted"


def test_an_input_that_fails_is_saved_as_small_as_it_gets_and_can_be_repeated(tmp_path: Path):
    outcome = Campaign(Brittle(), seed="1", folder=tmp_path, command="fuzz").run(50)
    assert outcome.failures
    [saved] = tmp_path.iterdir()
    assert saved.read_bytes() == b"\x07"
    assert f"fuzz --target brittle --replay {saved}" in outcome.failures[0]
    assert "KeyError" in failure_kind(Brittle().check, saved.read_bytes())
    assert minimised(Brittle().check, b"abc\x07def") == b"\x07"


@pytest.mark.parametrize("name", ["frames", "archives"])
def test_a_reader_that_believes_what_is_forged_is_found_out(name: str, tmp_path: Path):
    """The oracle at work: with another key in its books, what the accounts signed is a forgery."""
    target = open_target(name)
    keys = target.world.keys
    others = [*list(keys.values())[1:], next(iter(keys.values()))]
    keys.update(zip(list(keys), others, strict=True))
    outcome = Campaign(target, seed="forged", folder=tmp_path, command="fuzz").run(120)
    assert any("forged" in each for each in outcome.failures), outcome.table()


@pytest.mark.parametrize("name", unreadable_blocks("a.b.c"))
def test_the_second_opinion_refuses_what_is_no_canonical_value(name: str):
    if name in {"integer above int64", "no $type", "another $type", "not a map"}:
        decode_strict(
            unreadable_blocks("a.b.c")[name]
        )  # canonical, and not a record for other reasons
    else:
        with pytest.raises(NotCanonical):
            decode_strict(unreadable_blocks("a.b.c")[name])


def test_a_float_may_stand_in_the_header_of_an_archive_and_a_long_head_may_not():
    with_float = bytes.fromhex("a1612ffb3ff8000000000000")  # {"/": 1.5}
    assert decode_strict(with_float, ARCHIVE_HEADER) == {"/": None}
    with pytest.raises(NotCanonical, match="float"):
        decode_strict(with_float)
    with pytest.raises(NotCanonical, match="shortest"):
        decode_strict(bytes.fromhex("a1612f1801"), ARCHIVE_HEADER)  # {"/": 1}, in a byte too many


def test_links_to_a_changed_block_are_followed_to_the_root():
    leaf = b"leaf"
    middle = b"middle" + cid_of(leaf)
    root = b"root" + cid_of(middle)
    blocks, moved = rehashed({cid_of(each): each for each in (leaf, middle, root)}, cid_of(leaf), b"new")  # fmt: skip
    assert set(blocks) == {cid_of(block) for block in blocks.values()}
    assert blocks[moved[cid_of(root)]] == b"root" + moved[cid_of(middle)]


def test_runs_add_up_in_the_report(tmp_path: Path):
    file = tmp_path / "runs.json"
    for seed in (1, 2):
        outcome = Campaign(Brittle(), seed=str(seed), folder=tmp_path, command="fuzz").run(30)
        outcome.failures.clear()
        add_run(file, outcome, seed)
    made = document(json.loads(file.read_text()))
    assert made["figures"]["brittle: inputs"] == 60
    assert made["figures"]["brittle: accepted"] == sum(made["runs"]["brittle"]["verdicts"].values())
    assert made["passed"] and made["runs"]["brittle"]["seeds"] == [1, 2]
