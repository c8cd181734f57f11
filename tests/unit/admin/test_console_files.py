"""What the console's files are served with."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from admin_api.console_files import PAGES, ConsoleFiles

FOLDER = resources.files("admin_api").joinpath("console")


def test_every_file_is_served_and_every_path_has_a_file():
    assert sorted(name for name, _ in PAGES.values()) == sorted(f.name for f in FOLDER.iterdir())


@pytest.mark.parametrize("path", PAGES)
def test_a_file_comes_with_a_policy_that_lets_nothing_else_in(path: str):
    response = ConsoleFiles().response(path)
    assert response is not None
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Type"] == f"{PAGES[path][1]}; charset=utf-8"


def test_nothing_else_is_a_file():
    assert ConsoleFiles().response("/console") is None
    assert ConsoleFiles().response("/../pyproject.toml") is None


def test_the_page_has_no_code_or_style_of_its_own_and_names_no_other_origin():
    page = FOLDER.joinpath("index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
    assert re.findall(r"\s(?:style|on\w+)=", page) == []
    for file in FOLDER.iterdir():
        assert re.findall(r"(?:https?:)?//[a-z]", file.read_text().replace("// ", "")) == []


def test_texts_never_become_markup():
    for file in FOLDER.iterdir():
        assert (
            re.findall(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", file.read_text()
            )
            == []
        )
