"""A letter that is tried again: its record is read from its repo and judged by today's lexicons."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from indexer.ingest.attempts import Result
from indexer.records.registry import Registry, bundled_documents, load_registry
from storage.dead_letter_queue import DeadLetterStore
from storage.tracked import TrackedRepos
from tests.devnet import Devnet
from tests.unit.ingest.resync_rig import Rig, open_rig

TAG = "pub.chive.eprint.userTag"
VERDICTS = "SELECT rkey, valid FROM records ORDER BY rkey"
LETTERS = "SELECT uri LIKE '%/b', message, retry_count FROM dead_letters"


async def retry_all(rig: Rig) -> int:
    tracked = TrackedRepos(rig.database)
    store = DeadLetterStore(rig.database, tracked, on_work=lambda: None, clock=rig.clock)
    return await store.retry_all(None)


def with_longer_tags(folder: Path) -> Registry:
    """The lexicons with one of an operator's, by which tags may have 1,000 bytes."""
    [document] = [each for each in bundled_documents() if each["id"] == TAG]
    document["defs"]["main"]["record"]["properties"]["tag"] |= {
        "maxLength": 1000, "maxGraphemes": 1000,
    }  # fmt: skip
    folder.mkdir()
    (folder / "tag.json").write_text(json.dumps(document))
    return load_registry(lexicon_dir=folder)


@pytest.mark.parametrize(
    ("foreign", "method"), [(0, "getRepo"), (4000, "getBlocks")], ids=["whole", "sparse"]
)
async def test_a_retried_record_is_judged_by_todays_lexicons_though_it_is_the_same(
    tmp_path: Path, foreign: int, method: str
):
    async with Devnet(seed=5, pds_count=1) as net:
        account = await net.create_account()
        posts = ((f"site.standard.document/r{n:06}", {"text": f"{n}"}) for n in range(foreign))
        net.import_records(account, records=[*posts], announce=False)
        tag = {"eprintUri": f"at://{account.did}/pub.chive.eprint.submission/3kpaper222222",
               "createdAt": "2026-03-01T12:00:00Z"}  # fmt: skip
        net.create(account, TAG, tag | {"tag": "x" * 500}, "a")
        net.create(account, TAG, tag | {"tag": 5}, "b")
        async with open_rig(net, tmp_path) as rig:
            await rig.hear()
            await rig.work()
            assert await rig.rows(VERDICTS) == [("a", 0), ("b", 0)]
            asked = rig.asked(method)
            assert await retry_all(rig) == 2
            [done] = await rig.work()
            assert (done.result, rig.asked(method) > asked) == (Result.FETCHED, True)
            assert await rig.rows(VERDICTS) == [("a", 0), ("b", 0)]
            [(_, _, count), _] = await rig.rows(LETTERS)
            assert count == 1, "it is the same letter"
        async with open_rig(net, tmp_path, with_longer_tags(tmp_path / "lexicons")) as rig:
            assert await retry_all(rig) == 2
            await rig.work()
            assert await rig.rows(VERDICTS) == [("a", 1), ("b", 0)]
            assert await rig.rows(LETTERS) == [(1, "tag: must be a string", 2)]
