from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripted_admin import PASSWORD, ScriptedAdmin, scripted_admin

from indexer.cli import main

Result = tuple[int, str, str]
"""Exit code, standard output, standard error."""


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("CHIVE_INDEXER_") or name.endswith("_DIRECTORY"):
            monkeypatch.delenv(name)


@pytest.fixture
def admin() -> Iterator[ScriptedAdmin]:
    with scripted_admin() as running:
        yield running


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "admin-password"
    path.write_text(PASSWORD + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run a command in this process."""

    def run(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        assert PASSWORD not in output.out + output.err
        return int(ended.value.code or 0), output.out, output.err

    return run


@pytest.fixture
def client(
    cli: Callable[..., Result], admin: ScriptedAdmin, password_file: Path
) -> Callable[..., Result]:
    """Run a client command against the scripted listener."""

    def run(*arguments: object) -> Result:
        return cli(*arguments, "--url", admin.url, "--password-file", password_file)

    return run
