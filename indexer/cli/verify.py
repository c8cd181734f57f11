"""The command `verify`: the local index held against its own records, without any network."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
import msgspec

from indexer.cli.options import config_option, json_option
from indexer.cli.wording import counted, printable
from indexer.errors import ConfigurationError, LocalBusy
from indexer.records.prepare import prepare_stored
from indexer.records.projection import SEARCH
from indexer.records.registry import load_registry
from indexer.settings import Settings, load_settings
from storage.projections import Projections
from storage.reading import open_reader
from storage.verification import Difference, Verification, check_search_index, is_known

EXIT_DIFFERENT = 1
SHOWN_MAX = 100
PROGRESS_RECORDS = 10_000


@dataclass(kw_only=True)
class _Findings:
    """What was found; the first differences are printed as they come, or kept for one document."""

    is_json: bool
    total: int = 0
    shown: list[Difference] = field(default_factory=list)

    def note(self, difference: Difference) -> None:
        """Count one more."""
        self.total += 1
        if self.total > SHOWN_MAX:
            return
        self.shown.append(difference)
        if not self.is_json:
            subject, detail = printable(difference.subject), printable(difference.detail)
            click.echo(f"{difference.what}: {subject}: {detail}")


@click.command()
@click.option("--did", help="Only the records of this account.")
@json_option
@config_option
def verify(*, did: str | None, is_json: bool, config: Path | None) -> int:
    """Recompute every CID, compare typed tables, search and totals with the records.

    Reads the local file only. Exit codes: 0 all is as it must be, 1 something is different,
    64 there is no such account, 74 the file is damaged.
    """
    settings = load_settings(config)
    findings = _Findings(is_json=is_json)
    records = _compare(settings, did, findings)
    is_search_checked = did is None
    if is_search_checked:
        try:
            broken = check_search_index(settings.storage.file, SEARCH)
        except (ConfigurationError, LocalBusy):
            is_search_checked = False
            click.echo(
                "The index of words was not checked: a daemon or a command uses the file.", err=True
            )
        else:
            if broken is not None:
                findings.note(broken)
    if is_json:
        click.echo(msgspec.json.format(_document(findings, records, is_search_checked), indent=2))
    else:
        if findings.total > SHOWN_MAX:
            click.echo(f"... and {findings.total - SHOWN_MAX:,} more")
        click.echo(
            f"{counted(records, 'record')} verified, {counted(findings.total, 'difference')} found."
        )
    return EXIT_DIFFERENT if findings.total else os.EX_OK


def _document(findings: _Findings, records: int, is_search_checked: bool) -> bytes:  # noqa: FBT001 - one place
    return msgspec.json.encode(
        {
            "records": records,
            "differences": findings.total,
            "searchIndexChecked": is_search_checked,
            "first": [
                {"what": each.what, "subject": each.subject, "detail": each.detail}
                for each in findings.shown
            ],
        }
    )


def _compare(settings: Settings, did: str | None, findings: _Findings) -> int:
    """Hand all differences to `findings`; the number of records that were verified."""
    governance_did = settings.governance.did
    registry = load_registry(governance_did=governance_did, lexicon_dir=settings.scope.lexicon_dir)
    path = settings.storage.path
    with open_reader(path) as reader:
        if not Projections(registry.types, SEARCH, basis=governance_did).is_current(reader):
            raise ConfigurationError(
                f"storage.path: the typed tables of {path} were made by another version or for"
                " another governance.did; start the daemon once, which makes them anew"
            )
        if did is not None and not is_known(reader, did):
            raise click.BadParameter(f"the index has no account {did!r}", param_hint="'--did'")
        prepare = partial(prepare_stored, registry=registry)
        verification = Verification(reader, registry.types, SEARCH, prepare)
        for difference in verification.differences(did, on_chunk=_show_progress):
            findings.note(difference)
    return verification.records


def _show_progress(records: int) -> None:
    if sys.stderr.isatty() and records % PROGRESS_RECORDS == 0:
        click.echo(f"\r{counted(records, 'record')} ...", nl=False, err=True)
