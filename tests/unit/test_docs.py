"""The README and the documents tell the truth."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from indexer.cli import commands
from indexer.metrics import Metrics
from indexer.records.registry import load_registry
from indexer.settings import CLIENT_VARIABLES
from storage.backup import PARTIAL

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
OTHER_NAMES = {"chive_match_uri", "chive_indexer"}  # a column, a service
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_every_link_leads_to_a_file(document: Path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_every_command_that_is_named_exists(document: Path):
    for command in re.findall(r"chive-indexer ([a-z][a-z-]+)", document.read_text()):
        assert command in commands.commands, command


def test_an_installed_command_is_told_where_the_daemon_is():
    """Else the runbook's own commands find neither the store nor the password."""
    text = (ROOT / "docs" / "running.md").read_text()
    assert set(re.findall(r"export (\w+)=", text)) == CLIENT_VARIABLES


def test_the_nightly_copy_clears_away_what_a_killed_one_has_left():
    """Nobody else does: the daemon removes only what it has named itself."""
    [names] = re.findall(r"-name '(\S+)' -mtime", (ROOT / "docs" / "running.md").read_text())
    for name in ("index-20260101T000000Z.db", f"index-20260101T000000Z.db{PARTIAL}"):
        assert fnmatch(name, names)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_every_make_target_that_is_named_exists(document: Path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"make ([a-z-]+)", document.read_text()):
        if target != "it":
            assert target in targets, target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_every_metric_that_is_named_exists(document: Path):
    registry = load_registry()
    exposed = {
        name
        for family in Metrics(registry.types).registry.collect()
        for name in (family.name, *(sample.name for sample in family.samples))
    }
    for name in re.findall(r"\bchive_[a-z_]+(?=[{`\s)])", document.read_text()):
        if name not in OTHER_NAMES:
            assert any(each.startswith(name.removesuffix("_total")) for each in exposed), name


def test_every_metric_of_the_contract_exists_with_its_labels():
    contract = Path(__file__).parents[3] / "shared" / "contract.md"
    if not contract.exists():
        pytest.skip(f"{contract} is absent")
    section = contract.read_text().partition("## Metrics")[2].partition("\n## ")[0]
    named = re.findall(r"`(chive_\w+)(?:\{([\w,]+)\})?`", section)
    assert len(named) > 30
    metrics = Metrics(load_registry().types)
    exposed = {
        metric._name: set(metric._labelnames)
        for metric in vars(metrics).values()
        if isinstance(metric, MetricWrapperBase)
    }
    for name, labels in named:
        if name != "chive_build_info":
            assert exposed.get(name.removesuffix("_total")) == set(
                filter(None, labels.split(","))
            ), name


def test_every_file_of_the_map_exists():
    block = README.split("```")
    tree = next(part for part in block if "indexer/daemon.py" in part)
    for line in tree.splitlines():
        for path in re.findall(r"(?:indexer|admin_api|storage|tests)/[a-z_/.]*", line):
            assert (ROOT / path).exists(), path


def test_python_and_licence_are_as_packaged():
    project = (ROOT / "pyproject.toml").read_text()
    assert 'requires-python = ">=3.11"' in project
    assert "Python 3.11" in README
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
