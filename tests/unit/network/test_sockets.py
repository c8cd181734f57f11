"""Sockets of the event stream."""

import asyncio
import socket

import pytest
from loopback import Loopback, answering, no_port, until

from indexer.network.sockets import endpoint_of, open_public_socket
from indexer.network.ssrf import HostRefused


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "::1", "::ffff:127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254"],
)
async def test_a_private_host_gets_no_socket(host):
    async with Loopback(answering("{}")) as server:
        with pytest.raises(HostRefused):
            await open_public_socket(host, server.port)
        assert server.connections == 0


async def test_the_operators_own_relay_may_be_private_on_its_own_port_only():
    async with Loopback(answering("{}")) as server, Loopback(answering("{}")) as other:
        exempt = {("localhost", server.port)}
        opened = await open_public_socket("localhost", server.port, exempt=exempt)
        with opened:
            assert opened.getpeername()[1] == server.port
            assert opened.getblocking() is False
            await until(lambda: server.connections == 1)
        with pytest.raises(HostRefused):
            await open_public_socket("localhost", other.port, exempt=exempt)
        with pytest.raises(HostRefused):
            await open_public_socket("127.0.0.1", server.port, exempt=exempt)
        assert other.connections == 0


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("wss://Relay.lan", ("relay.lan", 443)),
        ("ws://10.0.0.5/path", ("10.0.0.5", 80)),
        ("wss://[fd00::1]:2470", ("fd00::1", 2470)),
    ],
)
def test_a_url_leads_to_one_host_and_port(url, endpoint):
    assert endpoint_of(url) == endpoint


async def test_a_port_where_nobody_listens_is_an_os_error():
    port = no_port()
    with pytest.raises(ConnectionRefusedError):
        await open_public_socket("127.0.0.1", port, exempt={("127.0.0.1", port)})


async def test_a_cancelled_connection_leaves_no_socket():
    """The listener's backlog is full, so that the connection is never made."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        host, port = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex((host, port))
            task = asyncio.create_task(open_public_socket(host, port, exempt={(host, port)}))
            done, _ = await asyncio.wait([task], timeout=0.1)
            assert not done
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        finally:
            for filler in fillers:
                filler.close()
