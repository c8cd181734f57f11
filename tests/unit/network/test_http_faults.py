"""Servers that misbehave on the wire: every one ends in an error of its family, within bounds."""

import asyncio
import zlib
from pathlib import Path

import pytest
from loopback import Loopback, answer, chunk, chunked, hanging, until

from indexer.errors import Check, InvalidUpstream, Unavailable
from indexer.network.http import BYTES_PER_S_MIN, SLOW_S
from indexer.network.pacing import FAILURES_MAX

MIB = 1 << 20


async def read(http, url, *, bytes_max=MIB, idle_s=5.0, total_s=5.0) -> int:
    """Bytes received in all."""
    async with http.stream(
        url, service="pds", bytes_max=bytes_max, idle_s=idle_s, total_s=total_s
    ) as body:
        return sum([len(piece) async for piece in body])


async def test_a_gzip_bomb_stops_at_the_cap_after_inflation(client):
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join([packer.compress(bytes(MIB)) for _ in range(200)]) + packer.flush()
    assert len(bomb) < MIB  # it would pass a cap on what arrives

    async def script(wire):
        await wire.send(answer(bomb, Content_Encoding="gzip"))

    http = await client()
    before = peak_kib(reset=True)
    async with Loopback(script) as server:
        with pytest.raises(InvalidUpstream) as caught:
            await read(http, server.url, bytes_max=4 * MIB)
        assert server.asked[0][1]["accept-encoding"].startswith("gzip")
    assert caught.value.check is Check.LIMITS
    assert peak_kib() - before < 8 * 1024


def peak_kib(*, reset: bool = False) -> int:
    """The most memory that was resident since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


async def test_a_body_of_exactly_the_cap_passes_and_one_more_byte_does_not(client):
    async def script(wire):
        await wire.send(answer(b"x" * 1000))

    http = await client()
    async with Loopback(script) as server:
        assert await read(http, server.url, bytes_max=1000) == 1000
        with pytest.raises(InvalidUpstream):
            await read(http, server.url, bytes_max=999)


@pytest.mark.parametrize(
    "kind", [b"a/b;a*", b"text/html; " + b"(" * 7000, b"text/html" + b";" * 8000]
)
async def test_whatever_type_an_answer_claims_its_body_is_read(client, kind):
    """The library parses that header when it is asked: with other exceptions, or for a second."""

    async def script(wire):
        await wire.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\nContent-Length: 2\r\n\r\nok"
        )

    http = await client()
    async with Loopback(script) as server:
        assert await read(http, server.url) == 2


async def test_a_body_without_end_stops_at_the_cap_and_the_connection_is_closed(client):
    sent = 0

    async def script(wire):
        nonlocal sent
        await wire.send(chunked())
        while True:
            await wire.send(chunk(bytes(65536)))
            sent += 65536

    http = await client()
    async with Loopback(script) as server:
        with pytest.raises(InvalidUpstream) as caught:
            await read(http, server.url, bytes_max=4 * MIB)
        await server.all_gone()
    assert caught.value.check is Check.LIMITS
    assert 4 * MIB < sent < 32 * MIB  # what the sockets' buffers held


async def test_a_stalled_body_is_given_up_and_counts_as_a_failure(client):
    """Also at a host that answers every time: an answer that stalls is no answer."""

    async def script(wire):
        await wire.send(chunked(), chunk(b"x" * 1000))
        await wire.until_gone()

    http = await client()
    async with Loopback(script) as server:
        for _ in range(FAILURES_MAX):
            with pytest.raises(Unavailable):
                await read(http, server.url, idle_s=0.03)
        with pytest.raises(Unavailable, match="left alone"):
            await read(http, server.url)
        assert len(server.asked) == FAILURES_MAX
        await server.all_gone()


async def test_a_body_that_drips_is_given_up_as_too_slow(client, clock):
    """Never idle, always below the minimum: the clock moves with each byte."""
    dripped = 0

    async def script(wire):
        nonlocal dripped
        await wire.send(chunked())
        while True:
            await asyncio.sleep(0.001)
            clock.at += 5.0
            await wire.send(chunk(b"x"))
            dripped += 1

    http = await client()
    async with Loopback(script) as server:
        with pytest.raises(Unavailable, match="too slow"):
            await read(http, server.url, total_s=30.0)
        await server.all_gone()
    assert SLOW_S / 5.0 <= dripped < 30


async def test_a_body_that_is_just_fast_enough_is_read(client, clock):
    async def script(wire):
        await wire.send(chunked())
        for _ in range(12):
            await asyncio.sleep(0.001)
            clock.at += 5.0
            await wire.send(chunk(b"x" * (6 * BYTES_PER_S_MIN)))
        await wire.send(chunk(b""))

    http = await client()
    async with Loopback(script) as server:
        assert await read(http, server.url) == 12 * 6 * BYTES_PER_S_MIN


async def test_time_that_the_caller_takes_does_not_make_a_host_slow(client, clock):
    async def script(wire):
        await wire.send(chunked(), *[chunk(b"x" * 65536)] * 4, chunk(b""))

    http = await client()
    received = 0
    async with (
        Loopback(script) as server,
        http.stream(server.url, service="pds", bytes_max=MIB, idle_s=5, total_s=5) as body,
    ):
        async for piece in body:
            received += len(piece)
            clock.at += 1000.0
    assert received == 4 * 65536


async def test_headers_that_drip_run_into_the_total_time(client):
    dripped = 0

    async def script(wire):
        nonlocal dripped
        await wire.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await wire.send(b"X-%d: y\r\n" % dripped)
            dripped += 1
            await asyncio.sleep(0.005)

    http = await client()
    async with Loopback(script) as server:
        with pytest.raises(Unavailable, match="no answer in time"):
            await read(http, server.url, total_s=0.1)
        await server.all_gone()
    assert dripped


async def test_a_server_that_says_nothing_is_given_up(client):
    http = await client()
    async with Loopback(hanging) as server:
        with pytest.raises(Unavailable):
            await read(http, server.url, idle_s=0.03)
        await server.all_gone()
        assert server.asked


async def test_a_body_that_outlasts_the_total_time_is_given_up(client):
    async def script(wire):
        await wire.send(chunked())
        while True:
            await wire.send(chunk(b"x" * 1000))
            await asyncio.sleep(0.005)

    http = await client()
    async with Loopback(script) as server:
        with pytest.raises(Unavailable, match="no answer in time"):
            await read(http, server.url, total_s=0.1)
        await server.all_gone()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\x16\x03\x01\x02\x00\x01",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(20_000)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        answer(b"not gzip at all", Content_Encoding="gzip"),
        answer(zlib.compress(bytes(9), wbits=31)[:-12], Content_Encoding="gzip", length=50),
        answer(b"short", length=50),
    ],
)
async def test_garbage_then_a_half_closed_socket_is_unavailable(client, sent):
    async def script(wire):
        wire.writer.write(sent)
        wire.writer.write_eof()
        await wire.until_gone()

    http = await client()
    async with Loopback(script) as server:
        with pytest.raises(Unavailable):
            await read(http, server.url, total_s=2.0)
        await server.all_gone()
        assert server.asked


async def test_bytes_after_the_announced_length_are_not_part_of_the_body(client):
    async def script(wire):
        await wire.send(answer(b"hello", length=5))
        await until(lambda: is_read)
        await wire.send(b"and more")
        await wire.until_gone()

    is_read = False
    http = await client()
    async with Loopback(script, _fine) as server:
        assert await read(http, server.url) == 5
        is_read = True
        await server.all_gone()
        assert await read(http, server.url) == 2  # on a new connection
        assert server.connections == 2


async def test_bytes_that_come_with_an_answer_but_after_its_length_spoil_it(client):
    async def script(wire):
        await wire.send(answer(b"hello, and more", length=5))
        await wire.until_gone()

    http = await client()
    async with Loopback(script) as server:
        with pytest.raises(Unavailable):
            await read(http, server.url)
        await server.all_gone()


async def test_a_reset_at_any_byte_is_unavailable_and_the_next_try_succeeds(client):
    whole = chunked() + b"".join(chunk(bytes([n]) * 37) for n in range(6)) + chunk(b"")
    offsets = [*range(0, len(whole) - 1, 7)]
    resets = 0

    async def script(wire):
        nonlocal resets
        if resets < len(offsets):
            await wire.send(whole[: offsets[resets]])
            resets += 1
            wire.reset()
            raise ConnectionResetError
        await wire.send(whole)

    http = await client()
    async with Loopback(script) as server:
        while resets < len(offsets):
            with pytest.raises(Unavailable):
                await read(http, server.url)
            http._pacing.answered(server.url)  # the breaker is another test's business
        assert await read(http, server.url) == 6 * 37
    assert resets == len(offsets)


async def test_hanging_hosts_do_not_slow_healthy_ones(client):
    """As many hang as there are places: healthy hosts wait for a timeout at most, then go on."""
    http = await client()
    async with Loopback(hanging) as dead, Loopback(*[_fine] * 2) as healthy:
        tasks = [asyncio.create_task(read(http, dead.url)) for _ in range(40)]
        await until(lambda: len(dead.asked) == 2)  # no more than two at one host
        for _ in range(30):
            assert await read(http, healthy.url) == 2
        assert len(dead.asked) == 2
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _fine(wire):
    await wire.send(answer("{}"))


async def test_found_by_fuzzing_json_that_is_not_utf8_is_an_answer_to_refuse(client):
    async def script(wire):
        await wire.send(answer(b'{"id": "\xff"}'))

    http = await client()
    async with Loopback(script) as server:
        with pytest.raises(InvalidUpstream) as caught:
            await http.get_json(server.url, service="pds")
    assert caught.value.check is Check.RESPONSE
