"""The shape of the house: who may import whom, and what no module may become."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("indexer", "admin_api", "storage")
STDLIB_OF_SHELLS = {"asyncio", "socket", "ssl", "threading", "subprocess", "sqlite3", "urllib"}
EFFECTFUL = STDLIB_OF_SHELLS | {
    "aiohttp", "aiosqlite", "websockets", "structlog", "prometheus_client", "httpx",
}  # fmt: skip

PURE = ("indexer.errors", "indexer.protocol", "indexer.model", "indexer.planning",
        "indexer.records", "indexer.claims", "indexer.listings", "indexer.denials", "indexer.audit", "indexer.authors", "indexer.hosts", "indexer.gaps", "indexer.freshness", "indexer.delays",
        "indexer.derived", "indexer.directory", "indexer.citations", "indexer.lanes", "indexer.limits")  # fmt: skip
"""Modules without input or output."""

MIDDLE = ("admin_api", "indexer.operations", "indexer.ingest", "storage", "indexer.network",
          "indexer.extraction")  # fmt: skip
"""Rings beside each other: each sees ports, none sees another."""

SURFACES = {"indexer.cli", "indexer.__main__", "indexer.commands"}
ROOTS = {"indexer.daemon", "indexer.assembly"}

BELOW_MIDDLE = (*PURE, "indexer.ports", "indexer.metrics", "indexer.clock", "indexer.children")
"""What a middle ring may use of ours."""

LINES_MAX = 450
FUNCTION_LINES_MAX = 70
FUNCTIONS_MAX = 40
IMPORTS_MAX = 14

COMPOSITION = ("indexer/assembly.py", "indexer/store_parts.py", "indexer/stream_parts.py",
               "indexer/operation_parts.py", "indexer/scan_parts.py")  # fmt: skip
"""The composition root meets everybody."""

BROAD_EXCEPT_ALLOWED_IN = {
    "indexer/operations/runner.py",  # one type's bug must not stop the stream
    "admin_api/xrpc.py",  # nor one method's
    "indexer/ingest/verification.py",  # nor one over a commit that comes again at every start
    "indexer/ingest/resync.py",  # nor one over a repo
    "indexer/daemon.py",  # the last word of the process
}


def modules() -> Iterator[tuple[str, Path, ast.Module]]:
    """(dotted name, file, tree) of everything that is installed."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = list(file.relative_to(ROOT).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts.pop()
            yield ".".join(parts), file, ast.parse(file.read_text())


ALL = list(modules())


def imports(tree: ast.Module) -> set[str]:
    """Dotted names of imported modules; relative imports are not used here."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_in(name: str, rings: tuple[str, ...] | set[str]) -> bool:
    return any(name == ring or name.startswith(f"{ring}.") for ring in rings)


def ours(tree: ast.Module) -> set[str]:
    return {name for name in imports(tree) if name.split(".")[0] in PACKAGES}


def ring_of(name: str) -> str | None:
    return next((ring for ring in MIDDLE if is_in(name, (ring,))), None)


def test_pure_modules_import_nothing_with_effects():
    for name, _, tree in ALL:
        if is_in(name, PURE):
            tops = {
                each.split(".")[0] for each in imports(tree) if not each.startswith("urllib.parse")
            } - ({"urllib"} if "urllib.parse" in imports(tree) else set())
            assert not tops & EFFECTFUL, f"{name} imports {tops & EFFECTFUL}"


def test_pure_modules_import_only_pure_modules():
    for name, _, tree in ALL:
        if is_in(name, PURE):
            assert all(is_in(each, PURE) for each in ours(tree)), (name, ours(tree))


def test_the_protocol_ring_knows_nothing_but_itself_and_errors():
    for name, _, tree in ALL:
        if is_in(name, ("indexer.protocol",)):
            allowed = ("indexer.protocol", "indexer.errors")
            assert all(is_in(each, allowed) for each in ours(tree)), (name, ours(tree))


def test_middle_rings_do_not_import_each_other():
    for name, _, tree in ALL:
        ring = ring_of(name)
        if ring is not None:
            foreign = {each for each in ours(tree) if not is_in(each, (ring, *BELOW_MIDDLE))}
            assert not foreign, f"{name} imports {foreign}"


def test_only_surfaces_import_the_composition_root():
    for name, _, tree in ALL:
        if not is_in(name, SURFACES | ROOTS):
            assert not any(is_in(each, ROOTS | SURFACES) for each in ours(tree)), name


def test_sql_lives_in_storage():
    for name, file, tree in ALL:
        if is_in(name, ("storage",)):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value.lstrip()
                assert not text.startswith(
                    ("SELECT ", "INSERT INTO", "UPDATE ", "DELETE FROM", "BEGIN", "PRAGMA ")
                ), f"{file}:{node.lineno}"


def test_outbound_requests_go_through_one_session():
    for name, file, _ in ALL:
        if "ClientSession(" in file.read_text():
            assert name in {"indexer.network.http", "indexer.cli"} or is_in(
                name, {"indexer.commands"}
            ), name


def test_protocols_are_small():
    for name, _, tree in ALL:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any(
                isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases
            ):
                methods = [
                    m for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef)
                ]
                assert len(methods) <= 7, f"{name}.{node.name}"


@pytest.mark.parametrize(("name", "file", "tree"), ALL, ids=[name for name, _, _ in ALL])
def test_no_module_is_a_god(name: str, file: Path, tree: ast.Module):
    assert len(file.read_text().splitlines()) <= LINES_MAX
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert len(functions) <= FUNCTIONS_MAX
    for function in functions:
        lines = (function.end_lineno or 0) - function.lineno + 1
        assert lines <= FUNCTION_LINES_MAX, f"{function.name}: {lines} lines"
    if str(file.relative_to(ROOT)) not in COMPOSITION:
        files = {each for each in ours(tree) if any(each == other for other, _, _ in ALL)}
        assert len(files) <= IMPORTS_MAX, sorted(files)


def test_no_two_modules_of_a_ring_define_the_same_public_function():
    where = defaultdict(list)
    for name, _, tree in ALL:
        ring = ring_of(name) or ".".join(name.split(".")[:2])
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                where[ring, node.name].append(name)
    doubled = {
        function: names
        for (_, function), names in where.items()
        if len(names) > 1 and not function.startswith("_")
    }
    assert doubled == {"is_cid": ["indexer.protocol.cid", "indexer.protocol.syntax"]}


def test_broad_excepts_stand_only_where_a_decision_is_taken():
    for _, file, tree in ALL:
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{file}:{node.lineno}"
                if isinstance(node.type, ast.Name) and node.type.id == "Exception":
                    assert str(file.relative_to(ROOT)) in BROAD_EXCEPT_ALLOWED_IN, file


def test_tasks_are_started_in_task_groups_only():
    for _, file, tree in ALL:
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in {
                "ensure_future", "gather", "run_in_executor", "get_event_loop",
            }:  # fmt: skip
                raise AssertionError(f"{file}:{node.lineno}: {node.attr}")
            if (
                isinstance(node, ast.Attribute)
                and node.attr == "create_task"
                and isinstance(node.value, ast.Name)
                and node.value.id in {"asyncio", "loop"}
            ):
                raise AssertionError(f"{file}:{node.lineno}: a task outside a group")


def test_queues_have_a_bound():
    for _, file, tree in ALL:
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "Queue"
            ):
                assert node.args or node.keywords, f"{file}:{node.lineno}"


def test_no_test_replaces_parts_of_ours():
    forbidden = ("unittest.mock", "MagicMock", "AsyncMock", "monkeypatch.setattr")
    for file in (ROOT / "tests").rglob("*.py"):
        if file != Path(__file__):
            text = file.read_text()
            assert not any(word in text for word in forbidden), file


def test_the_daemon_does_not_load_the_whole_sdk():
    """It costs 50 MB of memory and a second of every start."""
    import subprocess

    script = "import sys, indexer.daemon; sys.exit('atproto' in sys.modules or 'atproto_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_test_modules_have_names_of_their_own():
    """Two of one name could not be collected together."""
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
