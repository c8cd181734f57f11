from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from scripted_admin import PASSWORD

COMMAND = Path(sys.executable).with_name("chive-indexer")


def ran(*arguments: object, **environment: str) -> tuple[int, str, str]:
    """The installed command, in a process and an environment of its own."""
    done = subprocess.run(
        [COMMAND, *map(str, arguments)],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_daemon_refuses_an_unknown_key_in_one_line(tmp_path: Path):
    config = tmp_path / "config.toml"
    config.write_text("[firehose]\nulr = 'wss://relay.example'\n")
    code, out, err = ran("run", "--config", config)
    assert (code, out) == (78, "")
    assert err == (
        "chive-indexer: firehose.ulr = 'wss://relay.example': unknown setting; [firehose] has url,"
        " start, on_future_cursor, idle_s, batch_frames, batch_ms\n"
    )


def test_the_daemon_refuses_a_bad_value_of_a_variable_in_one_line(tmp_path: Path):
    code, out, err = ran("run", CHIVE_INDEXER_ADMIN__PORT="90000")
    assert (code, out) == (78, "")
    assert err == "chive-indexer: admin.port = '90000': must be less than or equal to 65535\n"


def test_the_daemon_refuses_a_missing_file_in_one_line(tmp_path: Path):
    config = tmp_path / "absent.toml"
    assert ran("run", CHIVE_INDEXER_CONFIG=str(config)) == (
        78,
        "",
        f"chive-indexer: --config {config}: cannot be read: No such file or directory\n",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[admin]\nbind = "0.0.0.0"', "admin.bind = '0.0.0.0': must be a loopback address unless"),
        (
            'network = {allow_private_hosts = true}\n[admin]\nbind = "0.0.0.0"\npassword_file = "x"',
            "admin.bind = '0.0.0.0': must be a loopback address while",
        ),
        (
            'admin = {bind = "0.0.0.0"}',
            "admin.bind = '0.0.0.0': must be a loopback address unless admin.password_file",
        ),
        (
            '[admin]\npassword_file = "{folder}/absent"',
            "admin.password_file = '{folder}/absent': cannot be read: No such file or directory",
        ),
        (
            '[admin]\npassword_file = "{folder}/open"',
            "admin.password_file = '{folder}/open': must not be open to others; use chmod 600",
        ),
        (
            '[admin]\npassword_file = "{folder}/short"',
            "admin.password_file = '{folder}/short': must hold at least one line, each of 12 char",
        ),
    ],
)
@pytest.mark.parametrize("command", ["run", "check-config"])
def test_unsafe_credentials_are_refused_before_anything_starts(
    cli, tmp_path: Path, password_file: Path, command: str, text: str, expected: str
):
    (tmp_path / "open").write_text(PASSWORD)
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "short").write_text("geheim\n")
    (tmp_path / "short").chmod(0o600)
    config = tmp_path / "config.toml"
    database = tmp_path / "index.db"
    text = f'storage = {{path = "{database}"}}\n{text}'.replace("{folder}", str(tmp_path))
    config.write_text(text)
    code, out, err = cli(command, "--config", config)
    assert (code, out) == (78, "")
    assert err.startswith("chive-indexer: " + expected.replace("{folder}", str(tmp_path)))
    assert err.count("\n") == 1
    assert "geheim" not in err
    assert not database.exists()


def test_check_config_prints_what_is_in_effect_and_no_secret(
    cli, tmp_path: Path, password_file: Path, monkeypatch: pytest.MonkeyPatch
):
    config = tmp_path / "config.toml"
    config.write_text("[admin]\nport = 2590\n[firehose]\nbatch_ms = 7\n")
    monkeypatch.setenv("CHIVE_INDEXER_FIREHOSE__URL", '["wss://a.example", "wss://b.example"]')
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/chive-indexer")
    code, out, err = cli("check-config", "--config", config)  # the fixture looks for the password
    assert (code, err) == (0, "")
    tree = tomllib.loads(out)
    assert tree["admin"]["port"] == 2590
    assert tree["admin"]["password_file"] == str(password_file)
    assert tree["firehose"] == {
        "url": ["wss://a.example", "wss://b.example"],
        "start": "live",
        "on_future_cursor": "hold",
        "batch_frames": 2000,
        "batch_ms": 7,
    }
    assert tree["storage"]["path"] == "/var/lib/chive-indexer/index.db"


def test_check_config_refuses_lexicon_files_that_a_daemon_would_refuse(cli, tmp_path: Path):
    config, folder = tmp_path / "config.toml", tmp_path / "lexicons"
    config.write_text(f'[scope]\nlexicon_dir = "{folder}"\n')
    absent = f"chive-indexer: scope.lexicon_dir: {folder} is not a folder with lexicon files\n"
    assert cli("check-config", "--config", config) == (78, "", absent)
    folder.mkdir()
    assert cli("check-config", "--config", config)[0] == 0
    (folder / "broken.json").write_text("{")
    code, out, err = cli("check-config", "--config", config)
    assert (code, out) == (78, "")
    broken = f"chive-indexer: scope.lexicon_dir: {folder}/broken.json is not a readable JSON file"
    assert err.startswith(broken)


def test_what_check_config_prints_is_a_file_with_the_same_effect(cli, tmp_path: Path):
    first = cli("check-config")[1]
    config = tmp_path / "config.toml"
    config.write_text(first)
    assert cli("check-config", "--config", config) == (0, first, "")


def test_the_settings_in_effect_are_told_in_json_too(cli):
    code, out, _ = cli("check-config", "--json")
    assert code == 0
    assert json.loads(out)["admin"]["port"] == 2580


def test_help_of_every_command_names_its_options(cli):
    commands = [
        "run", "check-config", "status", "backfill", "operations", "cancel", "gaps",
        "reset-cursor", "search", "verify", "export", "dlq", "pause", "resume", "deny", "allow",
        "denied", "backup", "restore", "pds",
    ]  # fmt: skip
    code, out, _ = cli("--help")
    assert code == 0
    listed = [line.split()[0] for line in out.partition("Commands:\n")[2].splitlines()]
    assert listed == sorted(commands)
    letters = [("dlq", each) for each in ("list", "retry", "dismiss", "purge")]
    hosts = [("pds", each) for each in ("list", "rescan")]
    single = [(each,) for each in commands if each not in {"dlq", "pds"}]
    for command in [*single, *letters, *hosts]:
        code, out, _ = cli(*command, "--help")
        assert code == 0
        assert "--config" in out and "CHIVE_INDEXER_CONFIG" in out


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "indexer", "--version"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.startswith("chive-indexer, version ")


def test_commands_beside_the_daemon_do_not_load_it():
    script = "import sys, indexer.cli; sys.exit(' '.join(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    loaded = set(done.stderr.split())
    assert "indexer.settings" in loaded
    assert not loaded & {"indexer.daemon", "aiohttp", "admin_api", "atproto"}
