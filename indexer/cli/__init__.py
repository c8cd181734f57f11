"""The command `chive-indexer`: the daemon, and what an operator does beside it.

Owns the words on the terminal and the exit codes; decides nothing about records. Only `run` loads
the daemon, so that the other commands start fast. Commands return their exit code, and every
failure is one line on standard error that says what to do next.

Exit codes beyond a command's own: 64 wrong usage, 65 the daemon refused the request, 69 no daemon
answers, 74 the disk or the store does not let us, 76 what answers is no daemon of ours, 77 the
password is wrong, 78 bad configuration, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from indexer.cli.backup import backup, restore
from indexer.cli.export import export
from indexer.cli.hosts import pds
from indexer.cli.operations import EXIT_INTERRUPTED
from indexer.cli.options import config_option, json_option
from indexer.cli.remote import REMOTE_COMMANDS
from indexer.cli.search import search
from indexer.cli.verify import verify
from indexer.cli.wording import printable
from indexer.errors import ConfigurationError, LocalFault
from indexer.logs import configure_logging
from indexer.records.registry import load_registry
from indexer.settings import Settings, effective, load_settings, read_passwords

PROGRAM = "chive-indexer"

OUTPUT_LOST = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What the disk behind standard output says: 1 would be an answer of many a command."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name=PROGRAM)
def commands() -> None:
    """Keep a SQLite index of pub.chive records equal to what their authors signed."""


@commands.command()
@config_option
def run(config: Path | None) -> int:
    """Run the daemon until SIGTERM or Ctrl-C.

    Exit codes: 0 clean, 78 bad configuration, 74 storage failure or port in use, 70 bug.
    """
    settings = _checked_settings(config)
    configure_logging(settings.log.format, settings.log.level)
    from indexer.daemon import run_daemon  # noqa: PLC0415 - seconds that only this command needs

    return run_daemon(settings)


@commands.command()
@json_option
@config_option
def check_config(*, is_json: bool, config: Path | None) -> int:
    """Check the settings and print those in effect, as a file that can be read back."""
    settings = _checked_settings(config)
    if settings.scope.lexicon_dir is not None:
        load_registry(lexicon_dir=settings.scope.lexicon_dir)
    if is_json:
        click.echo(settings.model_dump_json(indent=2))
    else:
        click.echo(effective(settings), nl=False)
    return os.EX_OK


def _checked_settings(config: Path | None) -> Settings:
    """Settings that a daemon can start with, as far as that shows before it starts."""
    settings = load_settings(config)
    read_passwords(settings.admin)
    return settings


for _command in (*REMOTE_COMMANDS, pds, search, verify, export, backup, restore):
    commands.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    sys.exit(_exit_code(arguments))


def _exit_code(arguments: Sequence[str] | None) -> int:
    try:
        # Not standalone: there click ends wrong usage with 2, which says "cancelled" here.
        code = commands.main(
            arguments,
            prog_name=PROGRAM,
            standalone_mode=False,
            color=False if os.environ.get("NO_COLOR") else None,  # None: where it is a terminal
        )
    except (ConfigurationError, LocalFault) as error:
        click.echo(f"{PROGRAM}: {error}", err=True)
        return os.EX_CONFIG if isinstance(error, ConfigurationError) else os.EX_IOERR
    except click.UsageError as error:
        error.show()
        return os.EX_USAGE
    except click.ClickException as error:
        click.echo(f"{PROGRAM}: {error.format_message()}", err=True)
        return error.exit_code
    except click.Abort:
        return EXIT_INTERRUPTED
    except UnicodeEncodeError as error:
        if not any(map(_is_foreign, sys.argv[1:] if arguments is None else arguments)):
            raise
        click.echo(f"{PROGRAM}: an argument is not UTF-8: {printable(error.object)}", err=True)
        return os.EX_USAGE
    except OSError as error:
        if error.errno not in OUTPUT_LOST:
            raise
        click.echo(f"{PROGRAM}: the output cannot be written: {error.strerror}", err=True)
        code = os.EX_IOERR
    return code if isinstance(code, int) else os.EX_OK


def _is_foreign(argument: str) -> bool:
    """Whether it holds bytes that are no text: a path may, nothing that is sent or looked up."""
    return not argument.isascii() and any("\udc80" <= c <= "\udcff" for c in argument)
