from __future__ import annotations

from pathlib import Path

import pytest

from indexer.errors import ConfigurationError
from indexer.setting_refusals import LINE_CHARS_MAX
from indexer.setting_sections import AdminSettings
from indexer.settings import (
    CLIENT_VARIABLES,
    PASSWORD_CHARS_MIN,
    Settings,
    effective,
    load_settings,
    read_password_file,
    read_passwords,
)

SECRET = "tr0ub4dor-and-3-horses"


def load(tmp_path: Path, text: str, **environment: str) -> Settings:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, environment)


def refused(tmp_path: Path, text: str, **environment: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text, **environment)
    line = str(caught.value)
    assert_one_line(line)
    return line


def assert_one_line(line: str) -> None:
    assert line and len(line) <= LINE_CHARS_MAX * 2
    assert line.isprintable(), line


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "admin-password"
    path.write_text(SECRET + "\n")
    path.chmod(0o600)
    return path


def test_nothing_given_is_the_defaults():
    assert load_settings(None, {}) == Settings()


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path):
    settings = load(tmp_path, "[admin]\nport = 2590\n")
    assert settings.admin.port == 2590
    assert settings.model_copy(update={"admin": AdminSettings()}) == Settings()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("admni = 1", "admni = 1: unknown setting; the sections are storage, firehose, "),
        ("[admni]\nport = 1", "admni = {'port': 1}: unknown setting; the sections are storage, "),
        ("[admin]\nprot = 1", "admin.prot = 1: unknown setting; [admin] has bind, port, "),
        ('[storage.path]\nx = ""', "storage.path = {'x': ''}: must be a path"),
        ("storage = 5", "storage = 5: must be a table of settings"),
        ("[[admin]]", "admin = [{}]: must be a table of settings"),
        ("[admin]\nport = 65536", "admin.port = 65536: must be less than or equal to 65535"),
        ("[admin]\nport = -1", "admin.port = -1: must be greater than or equal to 0"),
        ("[admin]\nport = 2580.5", "admin.port = 2580.5: must be a whole number"),
        ('[admin]\nport = "http"', "admin.port = 'http': must be a whole number"),
        ("[admin]\nport = true", "admin.port = True: must not be true or false"),
        ('[admin]\nbind = "localhost"', "admin.bind = 'localhost': must be an IP address"),
        ("[admin]\nbind = 5", "admin.bind = 5: must be a text"),
        ("[admin]\nhosts = {}", "admin.hosts = {}: must be a list"),
        (
            '[admin]\nhosts = ["x.example:8443", "https://x.example"]',
            "admin.hosts[1] = 'https://x.example': must be a host name, without scheme, path or",
        ),
        (
            '[admin]\nhosts = "*.x.example"',
            "admin.hosts[0] = '*.x.example': must be a host name, without scheme, path or wildcard",
        ),
        (
            '[admin]\ntrusted_proxies = ["::1", "10.0.0.1/8"]',
            "admin.trusted_proxies[1] = '10.0.0.1/8': must be an IP address, or a network such as",
        ),
        ('[firehose]\nurl = "relay"', "firehose.url[0] = 'relay': must be a wss:// or ws:// URL"),
        ("[firehose]\nurl = []", "firehose.url = []: must have at least one entry"),
        (
            '[firehose]\nurl = ["wss://a.example", "https://b.example"]',
            "firehose.url[1] = 'https://b.example': must be a wss:// or ws:// URL with a host",
        ),
        ('[firehose]\nurl = "wss://a:b"', "firehose.url[0] = 'wss://a:b': must be a wss:// or ws"),
        ('[firehose]\nurl = "wss://"', "firehose.url[0] = 'wss://': must be a wss:// or ws:// URL"),
        (
            '[firehose]\nurl = "ws://relay.example"',
            "firehose.url = 'ws://relay.example': must be a wss:// URL unless network.allow_private_hosts = true",
        ),
        (
            '[firehose]\nstart = "now"',
            "firehose.start = 'now': must be 'live' or 'oldest' or a whole number",
        ),
        (
            "[firehose]\nstart = 0",
            "firehose.start = 0: must be 'live' or 'oldest' or greater than or equal to 1",
        ),
        (
            '[identity]\nplc_url = "https://plc.directory?x=1"',
            "identity.plc_url = 'https://plc.directory?x=1': must be a https:// or http:// URL without user, query or fragment",
        ),
        (
            "[scope]\ncollections = []",
            "scope.collections = []: must have at least one entry",
        ),
        (
            '[scope]\ncollections = ["pub.chive.*", "pub.*x"]',
            "scope.collections[1] = 'pub.*x': must be an NSID, or a prefix cut at a dot and `.*`",
        ),
        ("[resync]\nidle_s = nan", "resync.idle_s = nan: "),
        ("[resync]\nidle_s = inf", "resync.idle_s = inf: "),
        ('[resync]\nidle_s = "long"', "resync.idle_s = 'long': must be a number"),
        ("[resync]\nidle_s = 1979-05-27", "resync.idle_s = datetime.date(1979, 5, 27): must be a"),
        (
            "[network]\nallow_private_hosts = 2",
            "network.allow_private_hosts = 2: must be true or false",
        ),
        ('[network]\ncontact = "a\\nb"', "network.contact = 'a\\nb': must be printable ASCII"),
        ('[governance]\ndid = "chive"', "governance.did = 'chive': must be a DID: "),
        ('[log]\nlevel = "loud"', "log.level = 'loud': must be 'debug', 'info', 'warning' or 'er"),
        ('[log]\nformat = "xml"', "log.format = 'xml': must be 'json' or 'console'"),
        ('[storage]\npath = ""', "storage.path = '': must be a path"),
        ('[storage]\npath = "/"', "storage.path = '/': must be a path to a file"),
        (
            f"[limits]\nrecords_per_repo = {2**63}",
            f"limits.records_per_repo = {2**63}: must be less than or equal to {2**63 - 1}",
        ),
        (
            f"[limits]\nbytes_per_repo = {2**63}",
            f"limits.bytes_per_repo = {2**63}: must be less than or equal to {2**63 - 1}",
        ),
        ('[storage]\npath = "a\\u0000"', "storage.path = 'a\\x00': must be a path"),
        ('"a\\nb" = 1', "a\\nb = 1: unknown setting; "),
        ('[admin]\n"po\\u2028rt" = 1', "admin.po\\u2028rt = 1: unknown setting; "),
        ('_env_file = "x"', "_env_file = 'x': unknown setting; "),
        ("_cli_parse_args = true", "_cli_parse_args = True: unknown setting; "),
    ],
)
def test_a_refusal_names_key_value_and_what_is_allowed(tmp_path: Path, text: str, expected: str):
    line = refused(tmp_path, text)
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"[admin", "is not valid TOML: "),
        (b"a = 1\na = 2", "is not valid TOML: "),
        (b"\xff\xfe", "is not valid TOML: "),
        (b"a = " + b"9" * 5000, "is not valid TOML: "),
        (b"a = " + b"[" * 5000, "is nested too deeply"),
        (b"a = \x00", "is not valid TOML: "),
    ],
    ids=["unfinished", "twice", "binary", "digits", "depth", "control"],
)
def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path: Path, text: bytes, problem: str):
    path = tmp_path / "config.toml"
    path.write_bytes(text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path, {})
    assert_one_line(str(caught.value))
    assert str(caught.value).startswith(f"--config {path}: {problem}")


@pytest.mark.parametrize(
    ("name", "problem"),
    [("absent.toml", "No such file or directory"), (".", "Is a directory"), ("a\nb", "No such")],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str, problem: str):
    with pytest.raises(ConfigurationError) as caught:
        load_settings(tmp_path / name, {})
    assert_one_line(str(caught.value))
    assert f"cannot be read: {problem}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ADMIN__PORT", "2590", ("admin", "port", 2590)),
        ("FIREHOSE__START", "oldest", ("firehose", "start", "oldest")),
        ("FIREHOSE__START", "17", ("firehose", "start", 17)),
        ("FIREHOSE__URL", "wss://a.example", ("firehose", "url", ("wss://a.example",))),
        (
            "FIREHOSE__URL",
            '["wss://a.example", "wss://b.example/"]',
            ("firehose", "url", ("wss://a.example", "wss://b.example")),
        ),
        ("SCOPE__COLLECTIONS", "pub.chive.*", ("scope", "collections", ("pub.chive.*",))),
        ("SCOPE__COLLECTIONS", '["a.b.c"]', ("scope", "collections", ("a.b.c",))),
        ("ADMIN__HOSTS", "[]", ("admin", "hosts", ())),
        ("ADMIN__TRUSTED_PROXIES", "10.0.0.0/8", ("admin", "trusted_proxies", ("10.0.0.0/8",))),
        ("NETWORK__ALLOW_PRIVATE_HOSTS", "true", ("network", "allow_private_hosts", True)),
        ("RESYNC__IDLE_S", "2.5", ("resync", "idle_s", 2.5)),
        ("STORAGE__PATH", "/x/y.db", ("storage", "path", Path("/x/y.db"))),
        ("LOG__FORMAT", "console", ("log", "format", "console")),
    ],
)
def test_a_variable_outweighs_the_file(
    tmp_path: Path, name: str, value: str, expected: tuple[str, str, object]
):
    section, key, wanted = expected
    text = "[admin]\nport = 1\n[firehose]\nstart = 3\nbatch_ms = 9\n"
    settings = load(tmp_path, text, **{f"CHIVE_INDEXER_{name}": value})
    assert getattr(getattr(settings, section), key) == wanted
    assert settings.firehose.batch_ms == 9  # the section's other keys stay


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ADMIN__PROT", "1", "CHIVE_INDEXER_ADMIN__PROT = '1': unknown setting; the form is "),
        ("ADMIN_PORT", "1", "CHIVE_INDEXER_ADMIN_PORT = '1': unknown setting; the form is "),
        ("ADMIN", "{}", "CHIVE_INDEXER_ADMIN = '{}': unknown setting; the form is "),
        ("ADMIN__PORT__X", "1", "CHIVE_INDEXER_ADMIN__PORT__X = '1': unknown setting; "),
        ("", "1", "CHIVE_INDEXER_ = '1': unknown setting; "),
        ("ADMIN__PORT", "x", "admin.port = 'x': must be a whole number"),
        ("ADMIN__PORT", "", "admin.port = '': must be a whole number"),
        ("FIREHOSE__URL", '["wss://a.example",', "firehose.url[0] = '[\"wss://a.example\",': must"),
        ("FIREHOSE__URL", "[1]", "firehose.url[0] = 1: must be a text"),
        ("SCOPE__COLLECTIONS", "a.b.*,c.d.*", "scope.collections[0] = 'a.b.*,c.d.*': must be an"),
        ("STORAGE__PATH", "\udcff", "storage.path = '\\udcff': must be a path in UTF-8"),
        ("ADMIN__PASSWORD", SECRET, "CHIVE_INDEXER_ADMIN__PASSWORD = (not shown): unknown"),
    ],
)
def test_a_wrong_variable_is_refused(name: str, value: str, expected: str):
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, {f"CHIVE_INDEXER_{name}": value})
    assert_one_line(str(caught.value))
    assert str(caught.value).startswith(expected)


def test_variables_of_the_client_commands_and_of_others_are_no_settings():
    environment = dict.fromkeys(CLIENT_VARIABLES, "x") | {"CHIVE_OTHER": "1", "PATH": "/bin"}
    assert load_settings(None, environment) == Settings()


def test_the_state_directory_outweighs_only_the_default(tmp_path: Path):
    state = {"STATE_DIRECTORY": "/var/lib/chive-indexer:/var/lib/second"}
    assert load(tmp_path, "", **state).storage.path == Path("/var/lib/chive-indexer/index.db")
    written = load(tmp_path, '[storage]\npath = "/x.db"', **state)
    assert written.storage.path == Path("/x.db")
    given = load(tmp_path, "", **state, CHIVE_INDEXER_STORAGE__PATH="/y.db")
    assert given.storage.path == Path("/y.db")


def test_a_credential_of_the_service_manager_is_the_password_file(
    tmp_path: Path, password_file: Path
):
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert load(tmp_path, "", **credentials).admin.password_file == password_file
    written = load(tmp_path, '[admin]\npassword_file = "/x"', **credentials)
    assert written.admin.password_file == Path("/x")
    password_file.unlink()
    assert load(tmp_path, "", **credentials).admin.password_file is None


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1"])
def test_a_public_admin_listener_needs_credentials(tmp_path: Path, bind: str, password_file: Path):
    with pytest.raises(ConfigurationError) as refused:
        read_passwords(load(tmp_path, f'[admin]\nbind = "{bind}"').admin)
    assert str(refused.value) == (
        f"admin.bind = {bind!r}: must be a loopback address unless admin.password_file"
        " or admin.dids is set"
    )
    given = load(tmp_path, f'[admin]\nbind = "{bind}"\npassword_file = "{password_file}"')
    assert read_passwords(given.admin)
    dids = 'service_did = "did:web:indexer.example.com"\ndids = "did:web:admin.example.com"'
    assert read_passwords(load(tmp_path, f'[admin]\nbind = "{bind}"\n{dids}').admin) == ()


def test_admins_with_a_did_need_an_audience_for_their_tokens(tmp_path: Path):
    line = refused(tmp_path, '[admin]\ndids = ["did:web:admin.example.com"]')
    assert line.startswith("admin.dids = ['did:web:admin.example.com']: needs admin.service_did")


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.8.8.8", "::1"])
def test_a_loopback_listener_needs_none(tmp_path: Path, bind: str):
    assert load(tmp_path, f'[admin]\nbind = "{bind}"').admin.bind == bind


@pytest.mark.parametrize(
    ("admin", "metrics", "is_refused"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("::1", "::", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "::", False),
    ],
)
def test_two_listeners_need_two_ports(tmp_path: Path, admin: str, metrics: str, is_refused: bool):
    text = f'[admin]\nbind = "{admin}"\nport = 2590\n[metrics]\nbind = "{metrics}"\nport = 2590'
    if is_refused:
        line = refused(tmp_path, text)
        assert line.startswith("metrics.port = 2590: must differ from admin.port")
    else:
        assert load(tmp_path, text).metrics.port == 2590
    assert load(tmp_path, text.replace("2590", "0")).metrics.port == 0


def test_a_store_smaller_than_its_reserve_would_take_in_nothing(tmp_path: Path):
    line = refused(tmp_path, "[limits]\ndb_bytes_max = 1_000_000_000")
    assert line.startswith("limits.db_bytes_reserve = 1073741824: must be less than")
    small = "[limits]\ndb_bytes_max = 1_000_000_000\ndb_bytes_reserve = 100_000_000"
    assert load(tmp_path, small).limits.db_bytes_max == 1_000_000_000


def test_private_targets_do_not_go_with_a_public_listener(tmp_path: Path, password_file: Path):
    line = refused(
        tmp_path,
        f'[admin]\nbind = "0.0.0.0"\npassword_file = "{password_file}"\n'
        "[network]\nallow_private_hosts = true",
    )
    assert line.startswith("admin.bind = '0.0.0.0': must be a loopback address while")


def test_an_unencrypted_stream_is_for_development(tmp_path: Path):
    text = '[firehose]\nurl = ["wss://a.example", "ws://127.0.0.1:9"]\n'
    assert "'ws://127.0.0.1:9'" in refused(tmp_path, text)
    given = load(tmp_path, text + "[network]\nallow_private_hosts = true")
    assert given.firehose.url == ("wss://a.example", "ws://127.0.0.1:9")


def test_every_line_of_the_password_file_is_a_password(tmp_path: Path):
    path = tmp_path / "passwords"
    path.write_text(f"  {SECRET}\t\n\n{SECRET[::-1]}\r\n")
    path.chmod(0o640)
    admin = AdminSettings(password_file=path)
    assert read_passwords(admin) == (SECRET, SECRET[::-1])
    assert read_passwords(AdminSettings()) == ()


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        (b"", 0o600, "must hold at least one line, each of 12 characters or more"),
        (b"\n \n", 0o600, "must hold at least one line"),
        (b"x" * (PASSWORD_CHARS_MIN - 1), 0o600, "must hold at least one line"),
        (SECRET.encode() + b"\nshort\n", 0o600, "must hold at least one line"),
        (SECRET.encode(), 0o604, "must not be open to others; use chmod 600"),
        (SECRET.encode(), 0o602, "must not be open to others"),
        (b"\xff" * 20, 0o600, "must be UTF-8 text"),
        (None, 0o600, "cannot be read: No such file or directory"),
    ],
)
def test_an_unsafe_password_file_is_refused_without_its_content(
    tmp_path: Path, content: bytes | None, mode: int, expected: str
):
    path = tmp_path / "passwords"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(ConfigurationError) as caught:
        read_passwords(AdminSettings(password_file=path))
    line = str(caught.value)
    assert_one_line(line)
    assert line.startswith(f"admin.password_file = '{path}': {expected}")
    assert SECRET not in line


def test_a_folder_is_no_password_file(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        read_password_file(tmp_path, "--password-file x")


@pytest.mark.parametrize(
    "text",
    [
        f'[admin]\npassword = "{SECRET}"',
        f'password = "{SECRET}"',
        f'[admin.secrets]\nadmin = "{SECRET}"',
        f'[credentials]\nadmin = "{SECRET}"',
        f'[firehose]\nurl = "wss://admin:{SECRET}@relay.example"',
        f'[identity]\nplc_url = "https://{SECRET}@plc.example"',
        f'admin = {{ api_token = "{SECRET}" }}',
        f'admni = {{ password = "{SECRET}" }}',
    ],
)
def test_a_secret_at_a_wrong_place_is_refused_without_being_shown(tmp_path: Path, text: str):
    line = refused(tmp_path, text)
    assert "(not shown)" in line
    assert SECRET not in line


def test_a_huge_value_is_shown_in_part(tmp_path: Path):
    line = refused(tmp_path, f'[log]\nlevel = "{"x" * 100_000}"')
    assert len(line) < 400


def test_settings_cannot_be_changed_once_they_are_loaded():
    with pytest.raises(ValueError, match="frozen"):
        Settings().admin.port = 1  # type: ignore[misc]


def test_the_effective_settings_can_be_read_back(tmp_path: Path):
    text = (
        '[storage]\npath = "C:\\\\d\\u007f\\"\\u00e9\\U0001F600\\n.db"\n'
        '[firehose]\nurl = ["wss://a.example", "wss://b.example"]\nstart = 12\n'
        '[admin]\ntrusted_proxies = ["10.0.0.0/8"]\nhosts = ["x.example"]\n'
        "[resync]\nidle_s = 1e-7\n"
        '[log]\nformat = "json"\n'
    )
    settings = load(tmp_path, text)
    assert load(tmp_path, effective(settings)) == settings


def test_a_mode_that_is_not_given_keeps_its_default(tmp_path: Path):
    modes = load(tmp_path, '[backfill]\nmode.didSync = "pause"\n').backfill.mode
    assert modes == Settings().backfill.mode | {"didSync": "pause"}
    assert modes["fullReindex"] == "pause" and modes["pdsScan"] == "supplement"


def test_modes_can_be_given_by_the_environment(tmp_path: Path):
    variable = '{"fullReindex": "supplement"}'
    settings = load(tmp_path, "", CHIVE_INDEXER_BACKFILL__MODE=variable)
    assert set(settings.backfill.mode.values()) == {"supplement"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"pause"', "backfill.mode = 'pause': must be a table: type = mode"),
        ('{ scan = "pause" }', "must name types of pdsScan, freshnessScan, "),
        ('{ didSync = "stop" }', "must give each type one of supplement, pause"),
    ],
)
def test_a_mode_is_refused_with_what_is_allowed(tmp_path: Path, value: str, expected: str):
    assert expected in refused(tmp_path, f"[backfill]\nmode = {value}\n")


def test_an_interval_that_is_not_given_keeps_its_default(tmp_path: Path):
    intervals = load(tmp_path, "[backfill]\ninterval_s.pdsScan = 3600\n").backfill.interval_s
    assert intervals == Settings().backfill.interval_s | {"pdsScan": 3600.0}
    assert [kind for kind, interval in Settings().backfill.interval_s.items() if interval] == [
        "freshnessScan", "governanceSync"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("60", "must be a table: type = seconds"),
        ("{ didSync = 3600 }", "must name types of pdsScan, freshnessScan, "),
        ("{ pdsScan = 59 }", "must give each type 0 for never, or 60 to 2592000 seconds"),
        ("{ pdsScan = true }", "must give each type 0 for never, or 60 to 2592000 seconds"),
        ("{ pdsScan = nan }", "must give each type 0 for never, or 60 to 2592000 seconds"),
    ],
)
def test_an_interval_is_refused_with_what_is_allowed(tmp_path: Path, value: str, expected: str):
    assert expected in refused(tmp_path, f"[backfill]\ninterval_s = {value}\n")
