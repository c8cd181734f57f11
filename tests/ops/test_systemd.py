"""The systemd unit: what Debian's own tools say of it, and that the daemon runs as it promises.

systemd is not asked to run anything: all of its checks work on files.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from indexer.daemon import EXIT_CONFIGURATION
from indexer.settings import CREDENTIAL_NAME, load_settings

pytestmark = pytest.mark.ops

FOLDER = Path(__file__).parents[2] / "systemd"
UNIT = FOLDER / "chive-indexer.service"
SYSUSERS = FOLDER / "chive-indexer.sysusers"
COMMAND = Path(sys.executable).with_name("chive-indexer")
EXPOSURE_MAX = 15
"""Tenths, of 100: what `systemd-analyze security` may find at most."""

START_S = 30.0
STOP_S = 15.0


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def values(section: str) -> dict[str, list[str]]:
    """The settings of a section, in order; a name that is repeated has several."""
    found: dict[str, list[str]] = {}
    inside = False
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            inside = line == f"[{section}]"
        elif inside and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def installed(folder: Path, *, extra: str = "") -> Path:
    """The unit with the command of this environment, as `verify` wants one that exists."""
    (command,) = values("Service")["ExecStart"]
    unit = folder / UNIT.name
    text = UNIT.read_text().replace(command.split()[0], str(COMMAND))
    unit.write_text(text.replace("[Service]\n", f"[Service]\n{extra}", 1))
    return unit


def test_systemd_verifies_the_unit_without_a_word(tmp_path: Path):
    result = run("systemd-analyze", "verify", "--man=no", installed(tmp_path))
    # Unknown names and values are warnings there, with exit code 0: any word is a failure.
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_a_misspelt_setting_would_be_noticed(tmp_path: Path):
    unit = installed(tmp_path, extra="RestartPreventExitCode=78\n")
    result = run("systemd-analyze", "verify", "--man=no", unit)
    assert "RestartPreventExitCode" in result.stderr


def test_the_unit_is_exposed_to_little():
    result = run(
        "systemd-analyze",
        "security",
        "--offline=true",
        f"--threshold={EXPOSURE_MAX}",
        "--no-pager",
        UNIT,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (level,) = re.findall(r"Overall exposure level for \S+: (\d+\.\d)", result.stdout)
    assert float(level) * 10 <= EXPOSURE_MAX


def test_a_weaker_unit_would_be_noticed(tmp_path: Path):
    unit = tmp_path / UNIT.name
    text = UNIT.read_text()
    assert "\nSystemCallFilter=" in text
    unit.write_text(re.sub(r"\nSystemCallFilter=.*", "", text))
    result = run(
        "systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", unit
    )
    assert result.returncode == 1, result.stdout


def test_sysusers_makes_the_account_that_the_unit_runs_as(tmp_path: Path):
    (user,), (group,) = values("Service")["User"], values("Service")["Group"]
    dry = run("systemd-sysusers", "--dry-run", SYSUSERS)
    assert dry.returncode == 0, dry.stderr
    assert all(line.startswith(("Creating ", "Would write ")) for line in dry.stderr.splitlines())
    (tmp_path / "etc").mkdir()
    real = run("systemd-sysusers", f"--root={tmp_path}", SYSUSERS)
    assert real.returncode == 0, real.stderr
    (account,) = (tmp_path / "etc/passwd").read_text().splitlines()
    name, _, uid, gid, _, home, shell = account.split(":")
    assert (name, home, shell) == (user, f"/var/lib/{user}", "/usr/sbin/nologin")
    assert int(uid) > 0
    assert f"{group}:x:{gid}:" in (tmp_path / "etc/group").read_text().splitlines()


def test_a_bad_configuration_is_not_started_again(tmp_path: Path):
    service = values("Service")
    assert service["Restart"] == ["always"]
    (prevented,) = service["RestartPreventExitStatus"]
    bad = tmp_path / "config.toml"
    bad.write_text("[storage]\nno_such_key = 1\n")
    result = run(COMMAND, "run", "--config", bad)
    assert result.returncode == EXIT_CONFIGURATION
    assert str(result.returncode) in prevented.split()


def test_the_unit_and_the_settings_name_the_same_things():
    service = values("Service")
    settings = load_settings(None, {})
    assert service["SocketBindAllow"] == [
        f"tcp:{settings.admin.port}",
        f"tcp:{settings.metrics.port}",
    ]
    (credential,) = service["LoadCredential"]
    assert credential.partition(":")[0] == CREDENTIAL_NAME
    assert service["WorkingDirectory"] == [f"/var/lib/{service['StateDirectory'][0]}"]


def deny_writable_code() -> None:
    """What MemoryDenyWriteExecute=yes is for the process that comes."""
    set_mdwe, refuse_exec_gain = 65, 1
    if ctypes.CDLL(None, use_errno=True).prctl(set_mdwe, refuse_exec_gain, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    os.umask(0o077)


async def test_the_daemon_runs_on_what_the_unit_gives_it(tmp_path: Path):
    """State directory, credential, umask and no writable code are enough; SIGTERM ends it with 0."""
    state, credentials = tmp_path / "state", tmp_path / "credentials"
    state.mkdir(mode=0o750)
    credentials.mkdir(mode=0o500)
    password = credentials / CREDENTIAL_NAME
    password.write_text("a password of the operator\n")
    password.chmod(0o400)
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        "run",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=state,
        preexec_fn=deny_writable_code,
        env={
            "PATH": os.environ["PATH"],
            "JOURNAL_STREAM": "8:1",
            "STATE_DIRECTORY": str(state),
            "CREDENTIALS_DIRECTORY": str(credentials),
            "CHIVE_INDEXER_FIREHOSE__URL": "ws://127.0.0.1:9",
            "CHIVE_INDEXER_NETWORK__ALLOW_PRIVATE_HOSTS": "true",
            "CHIVE_INDEXER_ADMIN__PORT": "0",
            "CHIVE_INDEXER_METRICS__PORT": "0",
        },
    )
    assert process.stderr is not None
    written = b""
    try:
        async with asyncio.timeout(START_S):
            while b'"daemon.started"' not in written:
                line = await process.stderr.readline()
                written += line
                assert line, written.decode()
        priority, event = re.fullmatch(rb"<(\d)>(\{.*\})\n", line).groups()
        assert (priority, json.loads(event)["event"]) == (b"6", "daemon.started")
        assert (state / "index.db").stat().st_mode & 0o077 == 0
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_S):
            rest = await process.stderr.read()
            assert await process.wait() == 0, (written + rest).decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
