"""The folder of a demo: what of it is wiped, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.demo import PASSWORD, empty


def test_the_folder_of_an_earlier_demo_is_wiped(tmp_path: Path):
    folder = tmp_path / "demo"
    empty(folder)
    (folder / PASSWORD).touch()
    (folder / "index.db").touch()
    empty(folder)
    assert list(folder.iterdir()) == []
    empty(folder)


def test_what_is_no_demo_is_left_alone(tmp_path: Path):
    kept = tmp_path / "thesis.txt"
    kept.touch()
    with pytest.raises(SystemExit, match="no demo's"):
        empty(tmp_path)
    assert kept.exists()
