"""The relay process, read by an ordinary websocket client."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.bench.benchmark import percentile
from tests.bench.corpus import Corpus
from tests.bench.feed import Feed, open_feed
from tests.bench.stream import MIXES, SEQ_BASE
from tests.devnet.cbor import decode_at

METHOD = "xrpc/com.atproto.sync.subscribeRepos"


@pytest.fixture
def feed(bench_corpus: Corpus, tmp_path: Path) -> Iterator[Feed]:
    with open_feed(bench_corpus, MIXES["mix10"], 600, rate=0, directory=tmp_path) as feed:
        yield feed


def seq_of(message: str | bytes) -> int:
    assert isinstance(message, bytes)
    _, at = decode_at(message, 0)
    body, end = decode_at(message, at)
    assert end == len(message)
    return body["seq"]


async def read(client: ClientConnection, count: int) -> list[int]:
    return [seq_of(await client.recv()) for _ in range(count)]


def leaving_early(feed: Feed, query: str = "") -> connect:
    """A client that does not wait for its close to get through what it has not read."""
    return connect(f"{feed.url}/{METHOD}{query}", close_timeout=0.1)


async def test_all_frames_arrive_once_in_order_with_their_seqs(feed: Feed):
    async with connect(f"{feed.url}/{METHOD}") as client:
        feed.await_client()
        feed.start()
        seqs = await read(client, len(feed.stream.frames))
    assert seqs == list(range(SEQ_BASE, feed.stream.seq_last + 1))


async def test_nothing_is_sent_before_the_start_but_pings_are_answered(feed: Feed):
    async with leaving_early(feed) as client:
        feed.await_client()
        await (await client.ping())
        feed.start()
        assert await read(client, 1) == [SEQ_BASE]


async def test_a_client_with_a_cursor_goes_on_after_it(feed: Feed):
    async with leaving_early(feed) as client:
        feed.await_client()
        feed.start()
        await read(client, 10)
    async with leaving_early(feed, f"?cursor={SEQ_BASE + 9}") as client:
        assert await read(client, 3) == [SEQ_BASE + 10, SEQ_BASE + 11, SEQ_BASE + 12]


async def test_the_close_handshake_does_not_wait(feed: Feed):
    async with connect(f"{feed.url}/{METHOD}", close_timeout=5) as client:
        feed.await_client()
        feed.start()
        await read(client, len(feed.stream.frames))
        await client.close()
        assert client.close_code == 1000


async def test_whoever_is_no_websocket_client_gets_404(feed: Feed):
    import aiohttp

    url = feed.url.replace("ws://", "http://")
    async with aiohttp.ClientSession() as session, session.get(f"{url}/xrpc/anything") as answer:
        assert answer.status == 404


async def test_a_paced_relay_keeps_its_rate(bench_corpus: Corpus, tmp_path: Path):
    with open_feed(bench_corpus, MIXES["mix10"], 300, rate=2000, directory=tmp_path) as feed:
        async with connect(f"{feed.url}/{METHOD}") as client:
            feed.await_client()
            first = feed.start()
            await read(client, len(feed.stream.frames))
            last = feed.relay.hear("last", timeout_s=5)["last"]
    assert last - first >= (len(feed.stream.frames) - 1) / 2000


def test_a_percentile_is_a_value_that_occurred():
    assert percentile([5.0, 1.0, 3.0], 0.5) == 3.0
    assert percentile([5.0, 1.0, 3.0], 0.99) == 5.0
