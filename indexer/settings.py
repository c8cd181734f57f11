"""Settings: one TOML file, overridden by environment variables, checked before anything starts.

The names, defaults and limits are those of `indexer.setting_sections`; no secret is among them
(files hold those). `CHIVE_INDEXER_<SECTION>__<KEY>` overrides `[section] key`; a list is written
as JSON there, or plainly where it has one entry.

Invariant: what `load_settings` returns can be run, once `read_passwords` has found the credentials:
those that the service manager holds are there for the daemon alone, not for other commands. An
unknown key or variable, a value out of range or a file that cannot be read is a
`ConfigurationError`: one line with the key, the value and what is allowed.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from indexer.setting_refusals import first_problem, refusal, shown
from indexer.setting_sections import (
    AdminSettings,
    BackfillSettings,
    CitationsSettings,
    FirehoseSettings,
    GovernanceSettings,
    HostsSettings,
    IdentitySettings,
    LimitsSettings,
    LogSettings,
    MetricsSettings,
    NetworkSettings,
    ResyncSettings,
    ScopeSettings,
    StorageSettings,
)
from indexer.setting_values import to_toml

ENV_PREFIX = "CHIVE_INDEXER_"
CLIENT_VARIABLES = frozenset({"CHIVE_INDEXER_ADMIN_PASSWORD_FILE", "CHIVE_INDEXER_CONFIG"})
"""Variables of the client commands, which are no settings."""

CREDENTIAL_NAME = "admin-password"
PASSWORD_CHARS_MIN = 12
PASSWORD_FILE_CHARS_MAX = 65_536


class Settings(BaseSettings):
    """The whole tree. Made by `load_settings`; made directly it reads no environment."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__"
    )

    storage: StorageSettings = StorageSettings()
    firehose: FirehoseSettings = FirehoseSettings()
    identity: IdentitySettings = IdentitySettings()
    scope: ScopeSettings = ScopeSettings()
    resync: ResyncSettings = ResyncSettings()
    network: NetworkSettings = NetworkSettings()
    admin: AdminSettings = AdminSettings()
    metrics: MetricsSettings = MetricsSettings()
    backfill: BackfillSettings = BackfillSettings()
    hosts: HostsSettings = HostsSettings()
    limits: LimitsSettings = LimitsSettings()
    governance: GovernanceSettings = GovernanceSettings()
    citations: CitationsSettings = CitationsSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed in: `load_settings` is handed its environment, tests too."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @model_validator(mode="after")
    def _safe(self) -> Settings:
        is_development = self.network.allow_private_hosts
        if _is_public(self.admin) and is_development:
            raise ValueError(
                f"admin.bind = {self.admin.bind!r}: must be a loopback address while"
                " network.allow_private_hosts = true, which is for development"
            )
        if self.admin.dids and self.admin.service_did is None:
            raise ValueError(
                f"admin.dids = {list(self.admin.dids)!r}: needs admin.service_did, the DID that"
                " their tokens are made out for"
            )
        if self.admin.author_methods and self.admin.service_did is None:
            raise ValueError(
                "admin.author_methods = true: needs admin.service_did, the DID that tokens of"
                " authors are made out for"
            )
        if _is_same_socket(self.admin, self.metrics):
            raise ValueError(
                f"metrics.port = {self.metrics.port}: must differ from admin.port, which is"
                " listened on at the same address"
            )
        insecure = [url for url in self.firehose.url if url.startswith("ws:")]
        if insecure and not is_development:
            raise ValueError(
                f"firehose.url = {insecure[0]!r}: must be a wss:// URL unless"
                " network.allow_private_hosts = true"
            )
        limits = self.limits
        if limits.db_bytes_reserve >= limits.db_bytes_max:
            raise ValueError(
                f"limits.db_bytes_reserve = {limits.db_bytes_reserve}: must be less than"
                f" limits.db_bytes_max = {limits.db_bytes_max}, or no repo is ever taken in"
            )
        return self


class _Environment(EnvSettingsSource):
    """Variables of a given environment; a list may be JSON or one plain entry."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__(Settings)
        self.env_vars = {
            name.lower(): value
            for name, value in environment.items()
            if name.startswith(ENV_PREFIX) and name not in CLIENT_VARIABLES
        }

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value  # the field's own check names it, with what is allowed


def load_settings(path: Path | None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read the file (None: defaults only) and the environment (None: the process's).

    Raises `ConfigurationError`: the process must not start.
    """
    environment = os.environ if environment is None else environment
    values = _read(path) if path is not None else {}
    _refuse_unknown_keys(values)
    _refuse_unknown_variables(environment)
    _apply_service_manager(values, environment)
    for section, keys in _Environment(environment)().items():
        given = values.get(section, {})
        values[section] = {**given, **keys} if isinstance(given, dict) else given
    try:
        return Settings(**values)
    except ValidationError as error:
        raise refusal(first_problem(error)) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise refusal(f"--config {path}: cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise refusal(f"--config {path}: is nested too deeply") from error
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise refusal(f"--config {path}: is not valid TOML: {error}") from error


def _refuse_unknown_keys(values: Mapping[str, object]) -> None:
    """Before sections become arguments of `Settings`, some of which steer pydantic-settings."""
    for section, keys in values.items():
        if section not in Settings.model_fields:
            raise refusal(f"{section} = {shown(section, keys)}: unknown setting; {_known(section)}")
        for key, value in keys.items() if isinstance(keys, dict) else ():
            if key not in _keys(section):
                name = f"{section}.{key}"
                raise refusal(f"{name} = {shown(name, value)}: unknown setting; {_known(section)}")


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        if not name.startswith(ENV_PREFIX) or name in CLIENT_VARIABLES:
            continue
        section, _, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
        if key not in _keys(section):
            raise refusal(
                f"{name} = {shown(name, value)}: unknown setting; the form is"
                f" {ENV_PREFIX}<SECTION>__<KEY>, and {_known(section)}"
            )


def _keys(section: str) -> tuple[str, ...]:
    """The keys of a section, none for an unknown one."""
    field = Settings.model_fields.get(section)
    annotation = field.annotation if field is not None else None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return tuple(annotation.model_fields)
    return ()


def _known(section: str) -> str:
    if keys := _keys(section):
        return f"[{section}] has {', '.join(keys)}"
    return f"the sections are {', '.join(Settings.model_fields)}"


def _apply_service_manager(values: dict[str, Any], environment: Mapping[str, str]) -> None:
    """What systemd provides outweighs built-in defaults, not what the operator wrote."""
    if state := environment.get("STATE_DIRECTORY"):
        storage = values.setdefault("storage", {})
        if isinstance(storage, dict):
            storage.setdefault("path", f"{state.split(':')[0]}/index.db")
    if credentials := environment.get("CREDENTIALS_DIRECTORY"):
        file = Path(credentials) / CREDENTIAL_NAME
        admin = values.setdefault("admin", {})
        if file.exists() and isinstance(admin, dict):
            admin.setdefault("password_file", str(file))


def _is_public(admin: AdminSettings) -> bool:
    return not ipaddress.ip_address(admin.bind).is_loopback


def _is_same_socket(one: AdminSettings, other: MetricsSettings) -> bool:
    if one.port != other.port or one.port == 0:
        return False
    here, there = ipaddress.ip_address(one.bind), ipaddress.ip_address(other.bind)
    is_any = here.is_unspecified or there.is_unspecified
    return here == there or (is_any and here.version == there.version)


def read_passwords(admin: AdminSettings) -> tuple[str, ...]:
    """The valid admin passwords, none when no file is set.

    Raises as `read_password_file`, and for a public listener that nobody could be let in by.
    """
    path = admin.password_file
    if path is None and not admin.dids and _is_public(admin):
        raise refusal(
            f"admin.bind = {admin.bind!r}: must be a loopback address unless admin.password_file"
            " or admin.dids is set"
        )
    return () if path is None else read_password_file(path, f"admin.password_file = {str(path)!r}")


def read_password_file(path: Path, name: str) -> tuple[str, ...]:
    """The passwords in a file, one a line; `name` is how the operator gave it.

    Raises `ConfigurationError` for a missing, empty or world-readable file, or a short password.
    """
    try:
        with path.open(encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            lines = file.read(PASSWORD_FILE_CHARS_MAX).splitlines()
    except OSError as error:
        raise refusal(f"{name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise refusal(f"{name}: must be UTF-8 text") from error
    if mode & 0o007:
        raise refusal(f"{name}: must not be open to others; use chmod 600")
    passwords = tuple(line.strip() for line in lines if line.strip())
    if not passwords or min(map(len, passwords)) < PASSWORD_CHARS_MIN:
        raise refusal(
            f"{name}: must hold at least one line, each of {PASSWORD_CHARS_MIN} characters or more"
        )
    return passwords


def effective(settings: Settings) -> str:
    """The settings as a file that `load_settings` reads back, for `check-config`.

    What is not set is a comment. No secret is a setting: files hold them, and URLs that carry one
    are refused.
    """
    lines = []
    for section, keys in settings.model_dump(mode="json").items():
        lines += ["", f"[{section}]"]
        lines += [
            f"# {key} is not set" if value is None else f"{key} = {to_toml(value)}"
            for key, value in keys.items()
        ]
    return "\n".join(lines[1:]) + "\n"
