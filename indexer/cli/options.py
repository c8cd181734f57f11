"""Options that several commands share: where the settings, the daemon and its password are."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import click

from indexer.cli.admin_client import AdminClient
from indexer.errors import ConfigurationError
from indexer.setting_sections import AdminSettings
from indexer.setting_values import parse_origin
from indexer.settings import Settings, load_settings, read_password_file

Command = TypeVar("Command", bound=Callable[..., int])

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="CHIVE_INDEXER_CONFIG",
    show_envvar=True,
    help="Settings file (TOML). Without one, the defaults and the environment.",
)
json_option = click.option("--json", "is_json", is_flag=True, help="Print JSON, for machines.")


@dataclass
class Target:
    """The daemon that a client command means; settings are read only where an option is absent."""

    url: str | None = field(default=None)
    password_file: Path | None = field(default=None)
    config: Path | None = field(default=None)

    def client(self) -> AdminClient:
        """Raises `ConfigurationError` where address or password cannot be known."""
        return AdminClient(url=self.url or admin_url(self._settings.admin), password=self._password)

    @cached_property
    def _settings(self) -> Settings:
        return load_settings(self.config)

    @property
    def _password(self) -> str:
        if self.password_file is not None:
            path, name = self.password_file, f"--password-file {self.password_file}"
        elif (path_set := self._settings.admin.password_file) is not None:
            path, name = path_set, f"admin.password_file = {str(path_set)!r}"
        else:
            raise ConfigurationError(
                "the admin password is not known: name its file with --password-file, or the"
                " daemon's settings with --config"
            )
        return read_password_file(path, name)[0]


def admin_url(admin: AdminSettings) -> str:
    """Where a daemon with these settings is reached from its own machine."""
    if admin.port == 0:
        raise ConfigurationError(
            "admin.port = 0: the daemon takes a free port, which its log names; give it with --url"
        )
    bind = ipaddress.ip_address(admin.bind)
    if bind.is_unspecified:
        bind = ipaddress.ip_address("127.0.0.1" if bind.version == 4 else "::1")  # noqa: PLR2004
    return f"http://[{bind}]:{admin.port}" if ":" in str(bind) else f"http://{bind}:{admin.port}"


def _parsed_url(context: click.Context, _: click.Parameter, value: str | None) -> None:
    try:
        context.ensure_object(Target).url = None if value is None else parse_origin(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _keep_password_file(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    context.ensure_object(Target).password_file = value


def _keep_config(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    context.ensure_object(Target).config = value


_TARGET_OPTIONS = (
    click.option(
        "--url",
        expose_value=False,
        callback=_parsed_url,
        help="The daemon's admin listener. By default as the settings have it.",
    ),
    click.option(
        "--password-file",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_keep_password_file,
        envvar="CHIVE_INDEXER_ADMIN_PASSWORD_FILE",
        show_envvar=True,
        help="File with the admin password. By default as the settings have it.",
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_keep_config,
        envvar="CHIVE_INDEXER_CONFIG",
        show_envvar=True,
        help="The daemon's settings file (TOML).",
    ),
    json_option,
)


def target_options(command: Command) -> Command:
    """Give a command the options of a client; it takes the `Target` by `click.pass_obj`."""
    for option in reversed(_TARGET_OPTIONS):
        command = option(command)
    return command
