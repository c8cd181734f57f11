from __future__ import annotations

import datetime as dt
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.errors import ConfigurationError
from indexer.setting_refusals import LINE_CHARS_MAX
from indexer.settings import Settings, effective, load_settings

KEYS = [
    (section, key)
    for section, field in Settings.model_fields.items()
    for key in field.default.__class__.model_fields
]
"""Every setting there is."""


def refusal_of(path: Path | None, environment: dict[str, str]) -> str | None:
    """The one line of a refusal; None where there are settings, which then can be read back."""
    try:
        loaded = load_settings(path, environment)
    except ConfigurationError as error:
        line = str(error)
    else:
        text = effective(loaded).encode("utf-8")
        if path is not None:
            path.write_bytes(text)
            assert load_settings(path, {}) == loaded
        return None
    assert line and line.isprintable() and len(line) <= 2 * LINE_CHARS_MAX
    return line


def to_toml(value: object) -> str:
    """Any value that TOML has, inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{to_toml(str(k))} = {to_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
WORDS = st.sampled_from(
    [
        *("live", "json", "info", "::1", "0.0.0.0", "a.b.*", "data/index.db", "self", "[::"),
        *("wss://a.example", "ws://127.0.0.1:1", "https://b.example"),
        "did:plc:5wzpn4a4nbqtz3q45hyud6hd",
    ]
)
SCALARS = (
    st.booleans()
    | st.integers()
    | st.integers(0, 5000)
    | st.floats()
    | TEXTS
    | WORDS
    | st.dates(dt.date(1000, 1, 1))
    | st.times()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
SECTION_NAMES = st.sampled_from(list(Settings.model_fields))
KEY_NAMES = st.sampled_from([key for _, key in KEYS])
TREES = st.dictionaries(
    SECTION_NAMES
    | TEXTS
    | st.sampled_from(
        ["self", "values", "_env_file", "_cli_parse_args", "model_config", "__class__"]
    ),
    st.dictionaries(KEY_NAMES | TEXTS, VALUES, max_size=3) | VALUES,
    max_size=4,
)


@pytest.fixture(scope="module")
def some_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings") / "config.toml"


@settings(max_examples=60, deadline=None)
@given(tree=TREES)
def test_any_toml_gives_settings_or_one_line(some_file: Path, tree: dict[str, Any]):
    lines = [f"{to_toml(key)} = {to_toml(value)}" for key, value in tree.items()]
    some_file.write_text("\n".join(lines), encoding="utf-8")
    assert "is not valid TOML" not in (refusal_of(some_file, {}) or "")


@pytest.mark.parametrize(("section", "key"), KEYS)
@settings(max_examples=30, deadline=None)
@given(value=VALUES)
def test_any_value_of_a_setting_is_taken_or_refused_by_its_name(
    some_file: Path, section: str, key: str, value: object
):
    some_file.write_text(f"[{section}]\n{key} = {to_toml(value)}\n", encoding="utf-8")
    line = refusal_of(some_file, {})
    assert line is None or line.startswith((f"{section}.{key} = ", f"{section}.{key}["))


@settings(deadline=None)
@given(content=st.binary(max_size=60))
def test_any_bytes_give_settings_or_one_line(some_file: Path, content: bytes):
    some_file.write_bytes(content)
    refusal_of(some_file, {})


NAMES = st.builds("CHIVE_INDEXER_{}__{}".format, SECTION_NAMES, KEY_NAMES).map(str.upper)
OTHER_NAMES = TEXTS.map("CHIVE_INDEXER_{}".format)
VARIABLES = WORDS | VALUES.map(to_toml) | st.text(st.characters(), max_size=20)


@settings(deadline=None)
@given(environment=st.dictionaries(NAMES | OTHER_NAMES, VARIABLES, max_size=3))
def test_any_environment_gives_settings_or_one_line(environment: dict[str, str]):
    refusal_of(None, environment)
