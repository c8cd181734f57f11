"""The lists of hosts and relays: what is read of them, and what is left out."""

import json

import pytest
from loopback import Loopback, answering

from indexer.errors import InvalidUpstream
from indexer.model import AccountStatus
from indexer.network.listings import COLLECTIONS_MAX, RepoListings

DID = "did:plc:" + "a" * 24


@pytest.fixture
async def listings(client):
    """Makes the lists that a relay at this URL has."""

    async def make(relay_url: str, *, allow_private: bool = True) -> RepoListings:
        http = await client(allow_private=allow_private, exempt=[relay_url])
        return RepoListings(http, relay_url=relay_url, allow_private=allow_private)

    return make


def host(name: object, status: str = "active") -> dict[str, object]:
    return {"hostname": name, "status": status, "accountCount": 7}


async def test_hosts_are_read_as_origins_and_what_may_not_be_contacted_is_left_out(listings):
    names = [
        "pds.example.com", "PDS.example.com", "10.0.0.1", "localhost", "a.example/path", "", 7,
        "127.0.0.1:2583", "user@b.example", "c.example",
    ]  # fmt: skip
    entries = [host(name) for name in names] + [host("gone.example", "banned"), "no", None]
    body = json.dumps({"hosts": entries, "cursor": "next"})
    async with Loopback(answering(body)) as relay:
        page = await (await listings(relay.url, allow_private=False)).of_relay("a b")
        assert relay.paths == ["/xrpc/com.atproto.sync.listHosts?limit=1000&cursor=a+b"]
    assert page.urls == ("https://pds.example.com", "https://c.example")
    assert page.cursor == "next"


async def test_in_development_hosts_are_reached_as_their_relay_is(listings):
    body = json.dumps({"hosts": [host("127.0.0.1:2583")], "cursor": 7})
    async with Loopback(answering(body)) as relay:
        page = await (await listings(relay.url)).of_relay(None)
    assert (page.urls, page.cursor) == (("http://127.0.0.1:2583",), None)


@pytest.mark.parametrize("body", ["[]", "{}", '{"hosts": 7}'])
async def test_what_is_no_list_of_hosts_is_refused(listings, body):
    async with Loopback(answering(body)) as relay:
        with pytest.raises(InvalidUpstream, match="no list of hosts"):
            await (await listings(relay.url)).of_relay(None)


async def test_of_a_list_of_repos_only_those_that_an_account_can_have_are_read(listings):
    dids = [
        DID, "did:key:zQ3shokFTS3brHcDQrn82", "did:plc:short", "did:plc:" + "A" * 24, "nonsense",
        "did:web:a.example", "did:web:", "", 7, None,
    ]  # fmt: skip
    entries = [{"did": did, "head": "x", "rev": "3kznmn7xqxl22"} for did in dids]
    body = json.dumps({"repos": [*entries, "no", None]})
    async with Loopback(answering(body)) as host:
        page = await (await listings(host.url)).of_host(host.url, None)
    assert page is not None
    assert [each.did for each in page.repos] == [DID, "did:web:a.example"]


async def test_a_listed_account_that_is_active_is_so_whatever_its_status_says(listings):
    body = json.dumps({"repos": [{"did": DID, "active": True, "status": "takendown"}]})
    async with Loopback(answering(body)) as host:
        page = await (await listings(host.url)).of_host(host.url, None)
    assert page is not None
    assert [each.status for each in page.repos] == [AccountStatus.ACTIVE]


async def test_a_relay_without_the_methods_has_no_lists(listings):
    refusal = json.dumps({"error": "MethodNotImplemented", "message": "no"})
    async with Loopback(answering(refusal, status="501 Not Implemented")) as relay:
        lists = await listings(relay.url)
        assert await lists.of_relay(None) is None
        assert await lists.of_collection("a.b.c", None) is None
        assert await lists.of_host(relay.url, None) is None


async def test_no_more_is_read_of_a_page_than_was_asked_for(listings):
    body = json.dumps({"repos": [{"did": DID}] * 30})
    async with Loopback(answering(body)) as pds:
        page = await (await listings(pds.url)).of_host(pds.url, None, repos_max=20)
        assert len(page.repos) == 20
        assert pds.paths == ["/xrpc/com.atproto.sync.listRepos?limit=20"]


async def test_the_collections_of_a_repo_are_what_its_host_says_within_bounds(listings):
    body = json.dumps({"collections": ["a.b.c", 7, None, *["x.y.z"] * COLLECTIONS_MAX]})
    async with Loopback(answering(body)) as pds:
        found = await (await listings(pds.url)).collections_of(pds.url, DID)
    assert found[:2] == ("a.b.c", "x.y.z") and len(found) == COLLECTIONS_MAX - 2


@pytest.mark.parametrize(
    ("status", "name", "is_absence"),
    [
        ("400 Bad Request", "RepoNotFound", True),
        ("404 Not Found", "NotFound", True),
        ("401 Unauthorized", "AuthMissing", False),
        ("501 Not Implemented", "MethodNotImplemented", False),
        ("400 Bad Request", "MethodNotImplemented", False),
    ],
)
async def test_a_host_without_an_answer_has_not_said_that_a_repo_is_absent(
    listings, status, name, is_absence
):
    async with Loopback(
        answering(json.dumps({"error": name, "message": ""}), status=status)
    ) as pds:
        lists = await listings(pds.url)
        if is_absence:
            assert await lists.collections_of(pds.url, DID) is None
        else:
            with pytest.raises(InvalidUpstream):
                await lists.collections_of(pds.url, DID)
