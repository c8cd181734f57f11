"""The command `search`: full-text search of the local index."""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec

from indexer.cli.options import config_option, json_option
from indexer.cli.wording import printable
from indexer.settings import load_settings
from storage.reading import open_reader
from storage.search import (
    BEGIN_MARK,
    END_MARK,
    FoundEprint,
    SearchFilter,
    search_eprints,
)

LIMIT_MAX = 1000
AUTHORS_SHOWN = 4
YEAR_DIGITS = 4


@click.command()
@click.argument("query", required=False, default="")
@click.option("--author", help="A DID, an ORCID iD, @handle, or words of a name.")
@click.option("--field", help="Words of a field's label, or the AT-URI of its node.")
@click.option("--year", type=click.IntRange(0, 9999), help="Year of creation.")
@click.option("--licence", "--license", "licence", help="Licence, such as CC-BY-4.0.")
@click.option(
    "--limit", type=click.IntRange(1, LIMIT_MAX), default=10, show_default=True, help="Results."
)
@click.option("--offset", type=click.IntRange(0, LIMIT_MAX), default=0, help="Results to skip.")
@config_option
@json_option
def search(  # the options are the command's interface
    query: str,
    *,
    author: str | None,
    field: str | None,
    year: int | None,
    licence: str | None,
    limit: int,
    offset: int,
    config: Path | None,
    is_json: bool,
) -> int:
    """Search eprints in the local index: title, abstract, keywords, authors, fields, tags.

    All words of QUERY must occur, in any form of their letters: "cafe" finds "Café". Put several
    words in double quotes to find them in this order; end a word with * to find what begins so.
    Options without QUERY list all eprints that fit them, the newest first.

    Of more than 1,000 matches those 1,000 are ranked and shown that were indexed last: add words or
    options to find others.
    """
    for text in (query, author, field, licence):
        (text or "").encode()  # what is not UTF-8 would be looked for as something else
    wanted = SearchFilter(author=author, field=field, year=year, licence=licence)
    with open_reader(load_settings(config).storage.path) as reader:
        found = search_eprints(reader, query, wanted, limit=limit, offset=offset)
    if is_json:
        click.echo(msgspec.json.format(msgspec.json.encode(_document(query, found)), indent=2))
        return os.EX_OK
    for eprint in found:
        for line in _lines(eprint):
            click.echo(line)
    if not found:
        click.echo("Nothing was found.")
    return os.EX_OK


def _lines(eprint: FoundEprint) -> list[str]:
    authors = ", ".join(eprint.authors[:AUTHORS_SHOWN])
    if len(eprint.authors) > AUTHORS_SHOWN:
        authors += " et al."
    facts = (authors, (eprint.created_at or "")[:YEAR_DIGITS], eprint.licence, eprint.doi)
    return [
        _marked(eprint.title),
        "  " + printable("; ".join(fact for fact in facts if fact)),
        "  " + _marked(eprint.snippet),
        "  " + click.style(printable(eprint.uri), dim=True),
        "",
    ]


def _marked(text: str) -> str:
    """On one line, with what matched in bold; colours vanish where the output is no terminal."""
    parts = []
    for number, part in enumerate(text.split(BEGIN_MARK)):
        match, is_marked, rest = part.partition(END_MARK) if number else ("", "", part)
        if number and not is_marked:
            match, rest = "", match
        parts += [click.style(_one_line(match), bold=True) if match else "", _one_line(rest)]
    return "".join(parts)


def _one_line(text: str) -> str:
    return printable(text.replace("\n", " "))


def _document(query: str, found: list[FoundEprint]) -> dict[str, object]:
    return {
        "query": query.encode(errors="replace").decode(),
        "results": [
            {
                "uri": eprint.uri,
                "did": eprint.did,
                "createdAt": eprint.created_at,
                "license": eprint.licence,
                "doi": eprint.doi,
                "title": _plain(eprint.title),
                "snippet": _plain(eprint.snippet),
                "matches": sorted(set(_matches(eprint.title)) | set(_matches(eprint.snippet))),
                "authors": eprint.authors,
                "score": eprint.score,
            }
            for eprint in found
        ],
    }


def _plain(text: str) -> str:
    return text.replace(BEGIN_MARK, "").replace(END_MARK, "")


def _matches(text: str) -> list[str]:
    return [part.partition(END_MARK)[0] for part in text.split(BEGIN_MARK)[1:] if END_MARK in part]
