"""DID documents and handles, from directories and hosts on loopback that lie and fail."""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from loopback import Loopback, answer, answering, hanging, routing, until
from name_server import serving

from indexer.errors import Check, DidGone, InvalidUpstream, NotAsked, Unavailable
from indexer.network import identity as limits
from indexer.network.http import HttpClient
from indexer.network.identity import IdentityResolver
from indexer.network.pacing import Pacing
from indexer.network.resolver import PublicResolver
from indexer.protocol.did_document import DidDocument
from indexer.protocol.keys import VerifyingKey
from tests.devnet.keys import derive_key, multibase

DID = "did:plc:" + "a" * 24
KEY = multibase(derive_key("k256", "alice"))
CORPUS = Path(__file__).parents[4] / "shared/corpus/real-pds"


def document(did=DID, *, handle="alice.example.com", pds="https://pds.example.com", **changed):
    return {
        "id": did,
        "alsoKnownAs": [f"at://{handle}"],
        "verificationMethod": [
            {
                "id": f"{did}#atproto",
                "type": "Multikey",
                "controller": did,
                "publicKeyMultibase": KEY,
            }
        ],
        "service": [
            {"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": pds}
        ],
    } | changed


def sent(value, **options) -> bytes:
    return answer(json.dumps(value), **options)


@pytest.fixture
async def resolving(clock, metrics):
    """Makes resolvers: `await resolving(plc_url, ...)`."""
    async with AsyncExitStack() as stack:

        async def make(
            plc_url, *, allow_private=False, handle_resolver_url=None, configure=None, **options
        ):
            names = PublicResolver(clock=clock, **({"configure": configure} if configure else {}))
            http = await stack.enter_async_context(
                HttpClient(
                    user_agent="chive-indexer/test",
                    allow_private=allow_private,
                    exempt=[url for url in (plc_url, handle_resolver_url) if url],
                    pacing=Pacing(clock=clock, rate=10_000.0),
                    clock=clock,
                    metrics=metrics,
                    resolver=names,
                )
            )
            return IdentityResolver(
                http,
                plc_url=plc_url,
                handle_resolver_url=handle_resolver_url,
                allow_private=allow_private,
                clock=clock,
                resolver=names,
                **options,
            )

        yield make


# Documents.


async def test_a_did_is_resolved_by_the_configured_directory(resolving):
    async with Loopback(routing({f"/{DID}": sent(document())})) as plc:
        identities = await resolving(plc.url)
        assert await identities.resolve(DID) == DidDocument(
            did=DID, handle="alice.example.com", signing_key=KEY, pds_url="https://pds.example.com"
        )


@pytest.mark.parametrize("folder", ["did-docs", "did-docs-legacy"])
async def test_recorded_documents_resolve_to_the_same_identity_in_both_renderings(
    resolving, folder
):
    if not CORPUS.exists():
        pytest.skip("../shared/corpus is absent")
    names = sorted(path.name for path in (CORPUS / folder).glob("*.json"))
    assert names
    for name in names:
        found = json.loads((CORPUS / folder / name).read_text())
        today = json.loads((CORPUS / "did-docs" / name).read_text())
        async with Loopback(answering(json.dumps(found), kind="application/did+ld+json")) as plc:
            resolved = await (await resolving(plc.url)).resolve(found["id"])
        assert resolved.signing_key == today["verificationMethod"][0]["publicKeyMultibase"]
        assert resolved.handle == found["alsoKnownAs"][0].removeprefix("at://").lower()
        assert resolved.pds_url == found["service"][0]["serviceEndpoint"]


async def test_the_first_valid_key_counts(resolving):
    good = document()["verificationMethod"][0]
    methods = [
        good | {"id": f"{DID}#other"},
        good | {"controller": "did:plc:" + "b" * 24},
        good | {"publicKeyMultibase": "zQ3shBAD"},
        good | {"publicKeyMultibase": "z" + "1" * 40},
        good | {"type": "Ed25519VerificationKey2020"},
        "nonsense",
        good | {"id": "#atproto", "publicKeyMultibase": multibase(derive_key("p256", "second"))},
        good,
    ]
    async with Loopback(answering(json.dumps(document(verificationMethod=methods)))) as plc:
        key = (await (await resolving(plc.url)).resolve(DID)).signing_key
    assert VerifyingKey.parse(key).jwt_alg == "ES256"


@pytest.mark.parametrize(
    ("pds", "found"),
    [
        ("https://pds.example.com/", "https://pds.example.com"),
        ("https://PDS.example.com:443", "https://pds.example.com"),
        ("https://pds.example.com:8443", "https://pds.example.com:8443"),
        ("https://user@pds.example.com", None),
        ("https://pds.example.com/path", None),
        ("https://pds.example.com?x=1", None),
        ("https://pds.example.com#x", None),
        ("ftp://pds.example.com", None),
        ("pds.example.com", None),
        ("https://[::1", None),
        ("https://" + "a" * 600, None),
        (5, None),
    ],
)
async def test_only_an_origin_is_a_pds(resolving, pds, found):
    async with Loopback(answering(json.dumps(document(pds=pds)))) as plc:
        assert (await (await resolving(plc.url)).resolve(DID)).pds_url == found


@pytest.mark.parametrize(
    ("body", "check"),
    [
        (document("did:plc:" + "b" * 24), Check.DID_DOCUMENT),
        ([], Check.DID_DOCUMENT),
        (document(service=[{}] * 10_000), Check.DID_DOCUMENT),
        (document(padding="x" * 300_000), Check.LIMITS),
    ],
)
async def test_a_document_of_another_did_or_beyond_bounds_is_refused_and_remembered(
    resolving, clock, body, check
):
    async with Loopback(answering(json.dumps(body))) as plc:
        identities = await resolving(plc.url)
        for _ in range(3):
            with pytest.raises(InvalidUpstream) as caught:
                await identities.resolve(DID)
            assert caught.value.check is check
        assert len(plc.asked) == 1
        clock.at += limits.FAILURE_CACHED_S
        with pytest.raises(InvalidUpstream):
            await identities.resolve(DID)
        assert len(plc.asked) == 2


@pytest.mark.parametrize(
    "failing",
    [
        answer("<html>please stand by</html>", kind="text/html"),
        answer("[" * 90_000),
        answer("<html>", status=403, kind="text/html"),
        answer('{"message":"?"}', status=400),
        answer("", status=302, Location="https://elsewhere.example.com/"),
        answer("", status=500),
    ],
)
async def test_a_directory_that_answers_nonsense_is_unavailable_and_asked_again(resolving, failing):
    async def script(wire):
        await wire.send(failing)

    async with Loopback(script, answering(json.dumps(document()))) as plc:
        identities = await resolving(plc.url)
        with pytest.raises(Unavailable):
            await identities.resolve(DID)
        assert (await identities.resolve(DID)).did == DID
        assert len(plc.asked) == 2


# Unknown and gone.


async def gone(identities, did=DID) -> DidGone:
    with pytest.raises(DidGone) as caught:
        await identities.resolve(did)
    return caught.value


async def test_a_did_that_the_directory_never_heard_of_is_unknown(resolving):
    unknown = answer(json.dumps({"message": f"DID not registered: {DID}"}), status=404)
    async with Loopback(routing({f"/{DID}": unknown})) as plc:
        assert not (await gone(await resolving(plc.url))).is_tombstone
        assert plc.paths == [f"/{DID}"]


@pytest.mark.parametrize("status", [404, 410])
async def test_a_tombstone_is_believed_when_the_log_ends_in_one(resolving, status):
    routes = {
        f"/{DID}": answer(json.dumps({"message": f"DID not available: {DID}"}), status=status),
        f"/{DID}/log/last": sent({"type": "plc_tombstone", "prev": "x", "sig": "y"}),
    }
    async with Loopback(routing(routes)) as plc:
        assert (await gone(await resolving(plc.url))).is_tombstone
        assert plc.paths == [f"/{DID}", f"/{DID}/log/last"]


@pytest.mark.parametrize(
    "last",
    [
        sent({"type": "plc_operation"}),
        sent([]),
        answer("{}", status=404),
        answer("", status=500),
        answer("<html>", kind="text/html"),
    ],
)
async def test_a_missing_document_alone_is_no_tombstone(resolving, last):
    """A page of a proxy in front of the directory must not purge anybody."""
    missing = answer("<h1>Gone</h1>", status=410, kind="text/html")
    async with Loopback(routing({f"/{DID}": missing, f"/{DID}/log/last": last})) as plc:
        assert not (await gone(await resolving(plc.url))).is_tombstone
        assert len(plc.asked) == 2


async def test_a_host_of_a_did_web_cannot_declare_a_tombstone(resolving):
    async with Loopback(answering("{}", status=410)) as host:
        identities = await resolving(host.url, allow_private=True)
        assert not (await gone(identities, f"did:web:localhost%3A{host.port}")).is_tombstone
        assert host.paths == ["/.well-known/did.json"]


# did:web.


async def test_a_did_web_of_localhost_resolves_in_development_only(resolving):
    async with Loopback(hanging) as plc:
        async with Loopback() as host:
            did = f"did:web:localhost%3A{host.port}"
            host._scripts = (answering(json.dumps(document(did))),)
            assert (await (await resolving(plc.url, allow_private=True)).resolve(did)).did == did
            with pytest.raises(InvalidUpstream):
                await (await resolving(plc.url)).resolve(did)
            assert len(host.asked) == 1
        assert plc.connections == 0


@pytest.mark.parametrize(
    "did",
    [
        "did:web:127.0.0.1",
        "did:web:169.254.169.254",
        "did:web:localhost",
        "did:web:localhost%3A8080",
        "did:web:intranet",
        "did:web:example.com%3A8443",
        "did:web:example.com:path",
        "did:web:example.com%2Fpath",
        "did:web:user%40example.com",
        "did:web:example.com%3Fx",
        "did:web:host.internal",
        "did:web:host.local",
        "did:web:host.test",
        "did:web:host.onion",
        "did:web:[::1]",
        "did:web:",
        "did:key:zQ3shFTKvjkbM6XojCu7navte7haxZLoUuqS3BGUS7oc2zLk",
        "did:plc:short",
        "did:plc:" + "a" * 24 + "/../x",
        "did:plc:" + "A" * 24,
        "nonsense",
        "",
    ],
)
async def test_dids_that_are_refused_before_any_look_up(resolving, did):
    async with Loopback(hanging) as plc, serving({}) as (names, configure):
        identities = await resolving(plc.url, configure=configure)
        with pytest.raises(InvalidUpstream) as caught:
            await identities.resolve(did)
        assert caught.value.check is Check.DID_DOCUMENT
        assert not names.asked
        assert plc.connections == 0


async def test_a_did_web_at_a_private_address_is_refused(resolving):
    records = {("alice.example.com", "A"): [["127.0.0.1"]]}
    async with Loopback(hanging) as plc, serving(records) as (names, configure):
        identities = await resolving(plc.url, configure=configure)
        with pytest.raises(InvalidUpstream) as caught:
            await identities.resolve("did:web:alice.example.com")
        assert caught.value.check is Check.HOST
        assert names.asked


# The cache.


async def test_concurrent_questions_share_one_request(resolving):
    release = asyncio.Event()

    async def script(wire):
        await release.wait()
        await wire.send(sent(document()))

    async with Loopback(script) as plc:
        identities = await resolving(plc.url)
        tasks = [asyncio.create_task(identities.resolve(DID)) for _ in range(50)]
        await until(lambda: plc.asked)
        release.set()
        assert {found.did for found in await asyncio.gather(*tasks)} == {DID}
        assert len(plc.asked) == 1
        assert not identities._flights


async def test_a_cancelled_caller_does_not_take_the_others_with_it(resolving):
    async def script(wire):
        await wire.until_gone()

    async with Loopback(script, answering(json.dumps(document()))) as plc:
        identities = await resolving(plc.url)
        leader = asyncio.create_task(identities.resolve(DID))
        await until(lambda: plc.asked)
        others = [asyncio.create_task(identities.resolve(DID)) for _ in range(5)]
        await asyncio.sleep(0)
        leader.cancel()
        found = await asyncio.gather(*others)
        assert leader.cancelled() and len(found) == 5
        assert len(plc.asked) == 2


async def test_a_failure_is_shared_by_those_who_wait_and_then_forgotten(resolving):
    release = asyncio.Event()

    async def script(wire):
        await release.wait()
        await wire.send(answer("", status=503))

    async with Loopback(script, answering(json.dumps(document()))) as plc:
        identities = await resolving(plc.url)
        tasks = [asyncio.create_task(identities.resolve(DID)) for _ in range(5)]
        await until(lambda: plc.asked)
        release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, Unavailable) for result in results)
        assert len({id(result) for result in results}) == 5
        assert len(plc.asked) == 1
        await identities.resolve(DID)


async def test_answers_are_kept_for_an_hour_unless_a_fresh_one_is_wanted(resolving, clock):
    async with Loopback(answering(json.dumps(document()))) as plc:
        identities = await resolving(plc.url)
        for expected, passed_s in ((1, 0.0), (1, limits.CACHED_S - 1), (2, 1.0)):
            clock.at += passed_s
            await identities.resolve(DID)
            assert len(plc.asked) == expected
        await identities.resolve(DID, fresh=True)
        assert len(plc.asked) == 3


async def test_a_fresh_answer_is_one_that_was_asked_for_later(resolving):
    """A request under way may have read what was true before the reason to ask again."""
    release = asyncio.Event()
    old, new = document(handle="old.example.com"), document(handle="new.example.com")

    async def script(wire):
        await release.wait()
        await wire.send(sent(old))

    async with Loopback(script, answering(json.dumps(new))) as plc:
        identities = await resolving(plc.url)
        first = asyncio.create_task(identities.resolve(DID))
        await until(lambda: plc.asked)
        fresh = [asyncio.create_task(identities.resolve(DID, fresh=True)) for _ in range(5)]
        await asyncio.sleep(0)
        release.set()
        assert (await first).handle == "old.example.com"
        assert {found.handle for found in await asyncio.gather(*fresh)} == {"new.example.com"}
        assert len(plc.asked) == 2


async def test_the_cache_is_bounded(resolving):
    async def script(wire):
        await wire.send(sent(document(wire.path[1:])))

    async with Loopback(script) as plc:
        identities = await resolving(plc.url, entries_max=10)
        for number in range(40):
            await identities.resolve(
                f"did:plc:{number:024d}".replace("0", "a")
                .replace("1", "b")
                .replace("8", "c")
                .replace("9", "d")
            )
        assert len(identities._answers) == 10


# Handles.


async def verified(identities, handle="alice.example.com", did=DID):
    return await identities.verify_handle(
        DidDocument(did=did, handle=handle, signing_key=None, pds_url=None)
    )


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (sent({"did": DID}), "alice.example.com"),
        (sent({"did": "did:plc:" + "b" * 24}), None),
        (sent({"did": 5}), None),
        (sent([]), None),
        (answer('{"error":"HandleNotFound"}', status=400), None),
        (answer("<html>", kind="text/html"), None),
        (answer("x" * 10_000), None),
    ],
)
async def test_a_handle_counts_only_if_the_configured_host_names_the_same_did(
    resolving, body, result
):
    async def script(wire):
        await wire.send(body)

    async with Loopback(script) as host:
        identities = await resolving(host.url, handle_resolver_url=host.url)
        assert await verified(identities) == result
        assert host.paths == ["/xrpc/com.atproto.identity.resolveHandle?handle=alice.example.com"]


async def test_a_configured_host_that_does_not_answer_says_nothing_of_a_handle(resolving):
    async def script(wire):
        await wire.send(answer("", status=500))

    async with Loopback(script) as host:
        identities = await resolving(host.url, handle_resolver_url=host.url)
        with pytest.raises(Unavailable):
            await verified(identities)


async def test_a_handle_whose_host_we_leave_alone_has_not_been_asked_about(resolving):
    async with Loopback(hanging) as plc, serving({}) as (_, configure):
        identities = await resolving(plc.url, configure=configure)
        assert await verified(identities) is None, "its host has no address"
        identities._http._pacing.close("https://alice.example.com", 60.0)
        with pytest.raises(NotAsked):
            await verified(identities)


@pytest.mark.parametrize(
    ("texts", "result"),
    [
        ([f'"did={DID}"'], "alice.example.com"),
        ([f'"did={DID}"', '"v=spf1 -all"'], "alice.example.com"),
        ([f'"did={DID}"', f'"did={DID} "'], None),
        ([f'"did={DID}"', f'"did=did:plc:{"b" * 24}"'], None),
        ([f'"did=did:plc:{"b" * 24}"'], None),
        ([f'"DID={DID}"'], None),
    ],
)
async def test_a_handle_is_verified_by_dns_and_two_answers_are_none(resolving, texts, result):
    records = {("_atproto.alice.example.com", "TXT"): [texts]}
    async with Loopback(hanging) as plc, serving(records) as (names, configure):
        identities = await resolving(plc.url, configure=configure)
        assert await verified(identities) == result
        assert ("_atproto.alice.example.com", "TXT") in names.asked


async def test_a_handle_whose_dns_names_two_dids_is_neithers(resolving):
    other = "did:plc:" + "b" * 24
    records = {("_atproto.alice.example.com", "TXT"): [[f'"did={DID}"', f'"did={other}"']]}
    async with Loopback(hanging) as plc, serving(records) as (_, configure):
        identities = await resolving(plc.url, configure=configure)
        assert [await verified(identities, did=did) for did in (DID, other)] == [None, None]


async def test_a_handle_without_dns_falls_to_https_which_is_not_asked_at_private_addresses(
    resolving,
):
    records = {
        ("_atproto.alice.example.com", "TXT"): ["SERVFAIL"],
        ("alice.example.com", "A"): [["127.0.0.1"]],
    }
    async with Loopback(hanging) as plc, serving(records) as (names, configure):
        identities = await resolving(plc.url, configure=configure)
        with pytest.raises(Unavailable, match="TXT of _atproto"):
            await verified(identities)
        assert ("alice.example.com", "A") in names.asked


@pytest.mark.parametrize(
    "handle", [None, "alice.invalid", "alice.test", "alice.localhost", "a.onion"]
)
async def test_handles_that_cannot_exist_are_not_looked_up(resolving, handle):
    async with Loopback(hanging) as plc, serving({}) as (names, configure):
        identities = await resolving(plc.url, configure=configure)
        assert await verified(identities, handle) is None
        assert not names.asked


class PlainWellKnown(HttpClient):
    """Turns the https of a handle's well-known file into http of a server here."""

    def __init__(self, to: str, **options) -> None:
        super().__init__(**options)
        self.to = to

    async def get_bytes(self, url, **options):
        assert url.startswith("https://")
        return await super().get_bytes(f"{self.to}/{url.removeprefix('https://')}", **options)


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (answer(f"{DID}\n", kind="text/plain"), "alice.example.com"),
        (answer("did:plc:" + "b" * 24, kind="text/plain"), None),
        (answer("<html>" + "x" * 1000, kind="text/html"), None),
        (answer("x" * 5_000_000, kind="text/plain"), None),
        (answer("", status=302, Location="/"), None),
        (answer("", status=404), None),
        (answer(b"\xff\xfe", kind="text/plain"), None),
    ],
)
async def test_what_a_handles_own_server_may_say(clock, metrics, body, result):
    async with answered_by(body, {}, clock, metrics) as identities:
        assert await verified(identities) == result


@asynccontextmanager
async def answered_by(body, records, clock, metrics):
    """A resolver for a world of these DNS records, in which every handle's server says `body`."""

    async def script(wire):
        await wire.send(body)

    async with Loopback(script) as host, serving(records) as (_, configure):
        names = PublicResolver(clock=clock, configure=configure)
        pacing = Pacing(clock=clock, rate=1000.0)
        async with PlainWellKnown(
            host.url,
            user_agent="x",
            allow_private=True,
            exempt=[],
            pacing=pacing,
            clock=clock,
            metrics=metrics,
        ) as http:
            yield IdentityResolver(
                http,
                plc_url=host.url,
                handle_resolver_url=None,
                allow_private=True,
                clock=clock,
                resolver=names,
            )
        assert host.paths[0] == "/alice.example.com/.well-known/atproto-did"


@pytest.mark.parametrize(
    "body",
    [
        answer("", status=404),
        answer("", status=503),
        answer("<html>a home page</html>", kind="text/html"),
        answer("", status=302, Location="/"),
    ],
)
async def test_a_handle_whose_dns_fails_is_not_refuted_by_a_server_that_names_nobody(
    clock, metrics, body
):
    records = {("_atproto.alice.example.com", "TXT"): ["SERVFAIL"]}
    async with answered_by(body, records, clock, metrics) as identities:
        with pytest.raises(Unavailable, match="TXT of _atproto"):
            await verified(identities)


@pytest.mark.parametrize(
    ("named", "result"), [(DID, "alice.example.com"), ("did:plc:" + "b" * 24, None)]
)
async def test_a_handle_whose_dns_fails_is_whose_its_server_says(clock, metrics, named, result):
    records = {("_atproto.alice.example.com", "TXT"): ["SERVFAIL"]}
    body = answer(named, kind="text/plain")
    async with answered_by(body, records, clock, metrics) as identities:
        assert await verified(identities) == result


async def test_a_handle_that_dns_does_not_know_needs_a_server_that_answers(clock, metrics):
    async with answered_by(answer("", status=503), {}, clock, metrics) as identities:
        assert await verified(identities) is None
