"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="CHIVE_INDEXER_CONFIG",
    show_envvar=True,
    help="Settings file (TOML). Without one, the defaults and the environment.",
)
