"""A document uploaded to the real PDS: fetched from whichever host the account is at, and read."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.devnet.records import realistic_record
from tests.documents.labelled import labelled_document
from tests.interop.daemon_process import daemon_process
from tests.interop.real_network import Account, Network

pytestmark = [pytest.mark.network]

SUBMISSION = "pub.chive.eprint.submission"


def submission(document: Any, paper: Account, author: Account) -> dict[str, Any]:
    value = realistic_record(random.Random(3), SUBMISSION, did=author.did)
    for name in ("publishedVersion", "externalIds", "documentFormatSlug", "supplementaryMaterials"):
        value.pop(name, None)
    return value | {"document": document, "paperDid": paper.did, "submittedBy": author.did}


async def test_citations_of_a_papers_own_account_are_read_before_and_after_it_moves(
    network: Network, tmp_path: Path
):
    author, paper = await network.account(), await network.account()
    example = labelled_document("ieee two columns hyphenated")
    blob = await paper.upload_blob(example.data, "application/pdf")
    uri = await paper.create(submission(blob, paper, author))
    async with daemon_process(
        tmp_path,
        firehose_url=network.pds_urls[0].replace("http:", "ws:"),
        plc_url=network.plc_url,
        handle_resolver_url=network.control_url,
    ) as daemon:
        await daemon.becomes(await network.listed_of(paper.url, paper.did), paper.did)
        ended = await daemon.backfill("citationExtraction")
        assert (ended["status"], ended["recordsProcessed"]) == ("completed", 1), daemon.log
        found = daemon.rows("SELECT eprint_uri, title, doi FROM citations ORDER BY title")
        assert found == sorted(
            ((uri, work.title, work.doi) for work in example.works), key=lambda row: row[1]
        )
        moved = await paper.migrate(1)
        await moved.upload_blob(example.data, "application/pdf")
        again = await daemon.backfill("citationExtraction", uri=uri)
        assert again["outcomes"] == [{"name": "extracted", "units": 1}], daemon.log
        assert daemon.rows("SELECT eprint_uri, title, doi FROM citations ORDER BY title") == found
