from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from scripted_admin import CLOSE, FIREHOSE, HEALTH, OVERVIEW, STATUS, credential

from indexer.cli import denials
from indexer.cli.admin_client import AdminClient, AdminUnreachable

ROOT = Path(__file__).parents[3]


def error(name: str, message: str) -> dict[str, str]:
    return {"error": name, "message": message}


@pytest.mark.parametrize(
    ("answer", "code", "expected"),
    [
        (
            (401, error("AuthenticationRequired", "the user or the password is wrong")),
            os.EX_NOPERM,
            "the password is wrong; name the daemon's own admin.password_file with --password-file",
        ),
        ((429, error("RateLimitExceeded", "wait 9 s")), os.EX_UNAVAILABLE, "wait 9 s; try again"),
        ((503, error("NotEnoughResources", "disk full")), os.EX_UNAVAILABLE, "disk full; try"),
        ((403, error("Forbidden", "add it to admin.hosts")), os.EX_DATAERR, "admin.hosts"),
        (
            (400, error("InvalidRequest", "parameter id: no operation nope")),
            os.EX_DATAERR,
            "no operation nope; `chive-indexer operations` lists those that exist",
        ),
        ((501, error("MethodNotImplemented", "not here")), os.EX_PROTOCOL, "says: not here"),
        ((404, error("NotFound", "metrics are under /metrics")), os.EX_PROTOCOL, "admin.port"),
        ((500, error("InternalServerError", "a bug")), os.EX_SOFTWARE, "says: a bug; report it"),
        ((500, error("InternalServerError", "")), os.EX_SOFTWARE, "says: InternalServerError"),
        ((404, b"<html>nginx</html>"), os.EX_PROTOCOL, "it answered with status 404"),
        ((307, b""), os.EX_PROTOCOL, "it answered with status 307"),
        ((200, b"<html>"), os.EX_PROTOCOL, "its answer is not as expected"),
        ((200, b"\xff"), os.EX_PROTOCOL, "its answer is not as expected"),
        ((200, {"operation": {"id": 5}}), os.EX_PROTOCOL, "its answer is not as expected"),
        ((200, b" " * (16 * 1024 * 1024 + 1)), os.EX_PROTOCOL, "is larger than 16777216 bytes"),
        (CLOSE, os.EX_UNAVAILABLE, "start it with `chive-indexer run`"),
    ],
)
def test_a_failed_call_is_one_line_that_says_what_to_do(admin, client, answer, code, expected):
    admin.answer(STATUS, answer)
    exited, out, err = client("operations", "nope")
    assert (exited, out) == (code, "")
    assert err.startswith("chive-indexer: ") and err.count("\n") == 1
    assert admin.url in err
    assert expected in err
    assert admin.count(STATUS) == 1


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"a":' * 5000])
@pytest.mark.parametrize("command", [("operations",), ("operations", "nope"), ("status",)])
def test_what_answers_with_something_else_is_no_daemon_for_machines_either(
    admin, client, command, answer
):
    """As a web server does that has one page for every path."""
    for path in (STATUS, HEALTH, FIREHOSE, OVERVIEW):
        admin.answer(path, (200, answer))
    code, out, err = client(*command, "--json")
    assert (code, out) == (os.EX_PROTOCOL, "")
    assert "its answer is not as expected" in err and err.count("\n") == 1


def test_a_wrong_password_is_told_as_such_also_after_many(admin, client):
    """A correct one is accepted even then, so to wait is no remedy."""
    many = error("RateLimitExceeded", "too many wrong credentials: wait 9 s")
    admin.answer(STATUS, (429, many, {"WWW-Authenticate": 'Basic realm="admin"'}))
    code, _, err = client("operations", "nope")
    assert code == os.EX_NOPERM
    assert "name the daemon's own admin.password_file" in err and "try again" not in err


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "input reason: must not be empty"),
        (403, "this Host is not served: add it to admin.hosts"),
        (500, "a bug; the log has the details"),
    ],
)
def test_a_remedy_is_told_only_for_what_it_helps_against(admin, client, status, message):
    admin.answer("/xrpc/" + denials.DENY, (status, error("Some", message)))
    _, _, err = client("deny", "a.example", "--reason", "x")
    assert message in err and denials.REMEDY.text not in err
    admin.answer("/xrpc/" + denials.DENY, (400, error("InvalidRequest", "input subject: odd")))
    _, _, err = client("deny", "a.example", "--reason", "x")
    assert f"input subject: odd; {denials.REMEDY.text}" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("operations", "\udcff"),
        ("cancel", "\udcff"),
        ("deny", "\udcff", "--reason", "x"),
        ("deny", "a.example", "--reason", "a\udcffb"),
        ("dlq", "retry", "--all", "--reason", "\udcff"),
        ("pds", "rescan", "http://\udcff"),
    ],
)
def test_an_argument_that_is_no_text_is_wrong_usage(admin, client, arguments):
    code, out, err = client(*arguments)
    assert (code, out) == (os.EX_USAGE, "")
    assert err.startswith("chive-indexer: an argument is not UTF-8: ") and err.count("\n") == 1
    assert admin.asked == []


def test_a_long_change_is_told_to_be_under_way():
    told, lines = threading.Event(), []

    def tell(line: str) -> None:
        lines.append(line)
        told.set()

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                while not connection.recv(65_536).endswith(b"}"):
                    pass
                assert told.wait(10.0)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        client = AdminClient(url=url, password="p", patience_s=0.01, tell=tell)
        assert client.call("a.b.c", {"x": 1}) == b"{}"
        thread.join()
    assert lines == [f"the daemon at {url} is at it: waiting, 10 min at most"]


def test_a_change_that_is_never_answered_may_yet_be_done():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(
            AdminUnreachable, match=r"within 0\.1 s: its log .* may yet do what was"
        ):
            AdminClient(url=url, password="p", change_s=0.1).call("a.b.c", {})


def test_without_a_daemon_the_line_says_how_to_start_one(cli, password_file):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code, out, err = cli(
        "status", "--url", f"http://127.0.0.1:{port}", "--password-file", password_file
    )
    assert (code, out) == (os.EX_UNAVAILABLE, "")
    assert err == (
        f"chive-indexer: no daemon answers at http://127.0.0.1:{port} (Connection refused): start"
        " it with `chive-indexer run`, or name another address with --url\n"
    )


def test_what_does_not_speak_http_is_no_daemon(cli, password_file):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"220 mail.example ESMTP\r\n")
                connection.recv(65_536)

        thread = threading.Thread(target=greet)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        code, _, err = cli("status", "--url", url, "--password-file", password_file)
        thread.join()
    assert code == os.EX_PROTOCOL
    assert "does not speak HTTP" in err


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"http://{'a' * 64}.example", "no such name or path is possible; correct --url"),
        ("http://127.0.0.1:9/\N{SNOWMAN}", "no such name or path is possible; correct --url"),
        ("http://daemon.invalid", "no daemon answers at http://daemon.invalid"),
    ],
)
def test_an_address_that_cannot_exist_is_told(cli, password_file, url, expected):
    code, _, err = cli("status", "--url", url, "--password-file", password_file)
    assert code == os.EX_UNAVAILABLE
    assert expected in err


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("127.0.0.1:2580", "must be a https:// or http:// URL"),
        ("ftp://127.0.0.1", "must be a https:// or http:// URL"),
        ("http://admin:x@127.0.0.1", "without user, query or fragment"),
    ],
)
def test_an_unusable_url_is_wrong_usage(cli, url, expected):
    code, _, err = cli("status", "--url", url)
    assert code == os.EX_USAGE
    assert expected in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["backfill"],
        ["backfill", "everything"],
        ["backfill", "fullReindex", "--batch-size", "0"],
        ["cancel"],
        ["operations", "--status", "odd"],
        ["status", "--bogus"],
        ["nonsense"],
    ],
)
def test_wrong_usage_is_not_mistaken_for_the_end_of_an_operation(cli, arguments):
    code, _, err = cli(*arguments)
    assert code == os.EX_USAGE
    assert "Usage: chive-indexer" in err


@pytest.mark.parametrize(
    ("bind", "expected"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]")],
)
def test_address_and_password_come_from_the_settings(
    cli, tmp_path: Path, password_file: Path, bind: str, expected: str
):
    config = tmp_path / "config.toml"
    config.write_text(f'[admin]\nbind = "{bind}"\nport = 1\npassword_file = "{password_file}"\n')
    code, _, err = cli("status", "--config", config)
    assert code == os.EX_UNAVAILABLE
    assert f"at http://{expected}:1 " in err


def test_variables_name_settings_and_password_file(
    cli, admin, tmp_path: Path, password_file: Path, monkeypatch: pytest.MonkeyPatch
):
    admin.answer(STATUS, (200, {"operations": []}))
    config = tmp_path / "config.toml"
    config.write_text(f"[admin]\nport = {admin.url.rpartition(':')[2]}\n")
    monkeypatch.setenv("CHIVE_INDEXER_CONFIG", str(config))
    monkeypatch.setenv("CHIVE_INDEXER_ADMIN_PASSWORD_FILE", str(password_file))
    assert cli("operations")[0] == 0


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("[admin]\nport = 0", [], "admin.port = 0: the daemon takes a free port"),
        ("", [], "the admin password is not known: name its file with --password-file"),
        ("", ["--password-file", "/nonexistent"], "--password-file /nonexistent: cannot be read"),
        ('[admin]\npassword_file = "/nonexistent"', [], "admin.password_file = '/nonexistent': "),
        ("[admin]\nprot = 1", [], "admin.prot = 1: unknown setting"),
    ],
)
def test_what_the_settings_do_not_tell_is_asked_for(
    cli, tmp_path: Path, text: str, arguments: list[str], expected: str
):
    config = tmp_path / "config.toml"
    config.write_text(text)
    code, out, err = cli("status", "--config", config, *arguments)
    assert (code, out) == (os.EX_CONFIG, "")
    assert err.startswith(f"chive-indexer: {expected}") and err.count("\n") == 1


def test_output_that_finds_no_space_is_a_fault_of_the_disk_and_no_answer():
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            (sys.executable, "-m", "indexer", "check-config"),
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
    assert ended.returncode == os.EX_IOERR
    assert ended.stderr.startswith("chive-indexer: the output cannot be written: No space")
    assert ended.stderr.count("\n") == 1


def test_only_the_first_of_several_passwords_is_sent(admin, client, password_file):
    admin.answer(STATUS, (200, {"operations": []}))
    password_file.write_text("an older password\nyet another one\n")
    assert client("operations")[0] == 0
    assert {asked.headers["Authorization"] for asked in admin.asked} == {
        credential("an older password")
    }
