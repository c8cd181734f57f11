from __future__ import annotations

import ast
import re
import tomllib
from itertools import pairwise
from pathlib import Path

import admin_api
import indexer
import storage
from indexer.settings import Settings, effective, load_settings

EXAMPLE = Path(__file__).parents[2] / "config" / "indexer.example.toml"

KEYS = [
    (section, key)
    for section, field in Settings.model_fields.items()
    for key in field.default.__class__.model_fields
]
"""Every setting there is."""


def test_the_effective_settings_name_every_setting():
    text = effective(Settings())
    tree = tomllib.loads(text)
    for section, key in KEYS:
        if getattr(getattr(Settings(), section), key) is None:
            assert key not in tree[section]
            assert f"\n# {key} is not set\n" in text
        else:
            assert key in tree[section]


def example_lines() -> list[str]:
    return EXAMPLE.read_text(encoding="utf-8").splitlines()


def test_the_example_file_holds_the_defaults():
    assert load_settings(EXAMPLE, {}) == Settings()


def test_the_example_file_names_every_setting_once_and_no_other():
    section, named = "", []
    for line in example_lines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
        elif setting := re.match(r"(?:# )?(\w+) = ", line):
            named.append((section, setting[1]))
    assert sorted(named) == sorted(KEYS)


def test_only_settings_without_a_default_are_commented_out_in_the_example_file():
    commented = {
        setting[1] for line in example_lines() if (setting := re.match(r"# (\w+) = ", line))
    }
    assert commented == {
        key for section, key in KEYS if getattr(getattr(Settings(), section), key) is None
    }


def test_the_values_that_are_commented_out_in_the_example_file_are_valid(tmp_path: Path):
    text = re.sub(r"(?m)^# (\w+ = )", r"\1", "\n".join(example_lines()))
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    settings = load_settings(path, {})
    for section, key in KEYS:
        assert getattr(getattr(settings, section), key) is not None


def test_every_setting_in_the_example_file_follows_its_comment():
    lines = example_lines()
    for above, line in pairwise(lines):
        if re.match(r"(?:# )?\w+ = ", line):
            assert above.startswith("# ") and above.endswith("."), line


def attributes_read() -> set[tuple[str, str]]:
    """(`a`, `b`) for every `….a.b` and `a.b` in the packages, but for where settings are declared."""
    found = set()
    for package in (indexer, admin_api, storage):
        for path in Path(str(package.__file__)).parent.rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            if path.name in {"settings.py", "setting_sections.py"}:
                tree.body = [node for node in tree.body if not isinstance(node, ast.ClassDef)]
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute):
                    match node.value:
                        case ast.Attribute(attr=name) | ast.Name(id=name):
                            found.add((name, node.attr))
    return found


def test_every_setting_is_read_by_a_part_of_the_daemon():
    unread = set(KEYS) - attributes_read()
    assert not unread
