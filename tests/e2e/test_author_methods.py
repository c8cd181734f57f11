"""Authors ask for a look at what is theirs: with tokens of their hosts, and to no other effect."""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.devnet.account import Account
from tests.e2e.daemon import PASSWORD, ShiftedClock, wait_until
from tests.e2e.test_admin_methods import ADMIN, INDEXER, SYNC, TAG, Stage, staged
from tests.e2e.test_denying import metric
from tests.unit.admin.tokens import mint

METHODS = ("indexRecord", "refreshRecord", "checkStaleness", "verify", "registerPDS")
NUMBERS = itertools.count()
EVIL = "did:web:evil.example"


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        yield made


def token(account: Account, name: str, **changed: Any) -> str:
    now = int(time.time())
    claims = {"iss": account.did, "iat": now, "exp": now + 60, "jti": f"n{next(NUMBERS)}",
              "lxm": SYNC + name} | changed  # fmt: skip
    return mint(key=account.key, **claims)


async def ask(
    stage: Stage,
    name: str,
    bearer: str | None,
    *,
    credential: str | None = None,
    client: str | None = None,
    **given: Any,
) -> tuple[int, Any]:
    """Call a method as its kind wants it; `client` is an address behind a trusted proxy."""
    url = f"{stage.daemon.addresses.admin_url}/xrpc/{SYNC}{name}"
    sent = {
        "Authorization": credential if bearer is None else f"Bearer {bearer}",
        "X-Forwarded-For": client,
    }
    headers = {header: value for header, value in sent.items() if value is not None}
    is_query = name in ("checkStaleness", "verify")
    extra: dict[str, Any] = {"params": given} if is_query else {"json": given}
    async with (
        aiohttp.ClientSession() as session,
        session.request("GET" if is_query else "POST", url, headers=headers, **extra) as response,
    ):
        return response.status, await response.json()


async def asked_for(stage: Stage) -> float:
    return await metric(stage, 'chive_http_client_requests_total{code="200",service="plc"}')


async def published(stage: Stage, **options: Any) -> tuple[Account, str]:
    """An account with one indexed record."""
    account = await stage.net.create_account(**options)
    stage.create(account)
    await stage.equal(account)
    [(uri,)] = stage.daemon.rows("SELECT uri FROM records WHERE did = ?", account.did)
    return account, uri


async def test_an_author_sees_how_a_record_stands_and_asks_for_another_look(stage: Stage):
    account, uri = await published(stage)
    before = await asked_for(stage)
    status, body = await ask(stage, "verify", token(account, "verify"), uri=uri)
    assert status == 200 and body.items() >= {"uri": uri, "indexed": True, "inSync": True}.items()
    assert body["staleDays"] == 0 and body["lastSyncedAt"]
    status, body = await ask(stage, "checkStaleness", token(account, "checkStaleness"), uri=uri)
    [(cid,)] = stage.daemon.rows("SELECT cid FROM records WHERE uri = ?", uri)
    assert (status, body["isStale"], body["indexedCid"]) == (200, False, cid)
    status, body = await ask(stage, "indexRecord", token(account, "indexRecord"), uri=uri)
    assert (status, body) == (200, {"uri": uri, "indexed": True, "cid": cid})
    assert await asked_for(stage) == before, "the key of a tracked account comes from the store"
    status, body = await ask(stage, "refreshRecord", token(account, "refreshRecord"), uri=uri)
    assert (status, body) == (200, {"uri": uri, "refreshed": True})
    wanted = "SELECT wanted & 4, retry_at > identity_at + 59 FROM repo WHERE did = ?"
    assert stage.daemon.rows(wanted, account.did) == [(4, 1)], "queued, but at most once a minute"
    stage.create(account)
    await stage.equal(account)
    assert stage.daemon.rows(wanted, account.did) == [(4, 1)], "what comes live does not wait"
    assert (await stage.get(ADMIN + "getAuditLog"))["total"] == 0, "authors are no admins"


async def test_an_unknown_author_has_the_repo_discovered(stage: Stage):
    account = await stage.net.create_account(announce=False)
    stage.net.import_records(account, 3, [TAG], announce=False)
    path = next(iter(dict(stage.net.cids(account))))
    uri = f"at://{account.did}/{path}"
    status, body = await ask(stage, "indexRecord", token(account, "indexRecord"), uri=uri)
    assert status == 200 and body["indexed"] is False and "compared with its host" in body["error"]
    await stage.equal(account)
    status, body = await ask(stage, "verify", token(account, "verify"), uri=uri)
    assert (status, body["indexed"], body["inSync"]) == (200, True, True)


async def refusals(stage: Stage) -> Counter[str]:
    """How often a credential was refused, by reason."""
    url = stage.daemon.addresses.metrics_url
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        text = await response.text()
    found = re.findall(r'^chive_auth_failures_total\{reason="(\w+)"\} (\S+)', text, re.MULTILINE)
    return Counter({reason: int(float(times)) for reason, times in found})


async def test_without_a_token_of_ones_own_every_method_answers_401(tmp_path: Path):
    async with staged(tmp_path, admin={"trusted_proxies": ["127.0.0.1/32"]}) as stage:
        account, uri = await published(stage)
        stranger = await stage.net.create_account(announce=False)
        before = await asked_for(stage)
        given = {name: {"pdsUrl": stage.net.pds[0].url} if name == "registerPDS" else {"uri": uri}
                 for name in METHODS}  # fmt: skip
        for name in METHODS:
            right = token(account, name)
            counted = await refusals(stage)
            assert (await ask(stage, name, right, **given[name]))[0] == 200
            bad = {
                "missing": None,
                "token_form": "Bearer junk",
                "scheme": aiohttp.encode_basic_auth("admin", PASSWORD),
                "token_lxm": f"Bearer {token(account, 'somethingElse')}",
                "token_aud": f"Bearer {token(account, name, aud='did:web:other.example')}",
                "token_signature": "Bearer " + mint(key=stranger.key, **claims_of(account, name)),
                "issuer_unknown": f"Bearer {token(account, name, iss=EVIL)}",
                "token_expired": f"Bearer {token(account, name, **long_ago())}",
                "token_replayed": f"Bearer {right}",
            }
            for reason, credential in bad.items():
                # Each as from a client of its own: none has failed too often.
                client = f"198.51.100.{next(NUMBERS) % 250}"
                own = {} if reason != "issuer_unknown" or name == "registerPDS" else {
                    "uri": uri.replace(account.did, EVIL),
                }  # fmt: skip
                status, body = await ask(
                    stage, name, None, credential=credential, client=client, **given[name] | own
                )
                assert (status, body["error"]) == (401, "AuthenticationRequired"), (name, reason)
            assert await refusals(stage) - counted == Counter(bad.keys()), name
        assert await asked_for(stage) == before


def long_ago() -> dict[str, int]:
    now = int(time.time())
    return {"iat": now - 100, "exp": now - 50}


def claims_of(account: Account, name: str) -> dict[str, Any]:
    now = int(time.time())
    return {"iss": account.did, "iat": now, "exp": now + 60, "jti": f"n{next(NUMBERS)}",
            "lxm": SYNC + name}  # fmt: skip


async def test_what_is_wrong_with_the_call_is_said_before_anybody_is_asked(stage: Stage):
    account, uri = await published(stage)
    stranger = await stage.net.create_account(announce=False)
    before = await asked_for(stage)
    bearer = token(stranger, "indexRecord")
    status, body = await ask(stage, "indexRecord", bearer, uri=uri)
    assert (status, body["error"]) == (403, "Forbidden")
    for bad in ("x", f"at://{stranger.did}", "at://alice.test/pub.chive.eprint.userTag/1",
                f"at://{stranger.did}/app.bsky.feed.post/1"):  # fmt: skip
        status, body = await ask(stage, "indexRecord", token(stranger, "indexRecord"), uri=bad)
        assert (status, body["error"]) == (400, "InvalidRequest"), bad
    for bad in ("x", "ftp://a.example", "https://user@a.example", "https://a.example/path"):
        status, body = await ask(stage, "registerPDS", token(stranger, "registerPDS"), pdsUrl=bad)
        assert (status, body["error"]) == (400, "InvalidRequest"), bad
    assert await asked_for(stage) == before
    assert account.did != stranger.did


async def test_strangers_have_the_directory_asked_seldom_and_for_did_plc_only(tmp_path: Path):
    async with staged(tmp_path, admin={"trusted_proxies": ["127.0.0.1/32"]}) as stage:
        _, uri = await published(stage)
        before = await asked_for(stage)
        elsewhere = await stage.net.create_account(method="web", announce=False)
        answer = await ask(stage, "verify", token(elsewhere, "verify"), uri=uri)
        assert answer[0] == 401, "its document would have been served"
        answers = []
        for client in [*["192.0.2.1"] * 8, "192.0.2.2"]:
            stranger = await stage.net.create_account(announce=False)
            bearer = token(stranger, "verify")
            answers.append(await ask(stage, "verify", bearer, client=client, uri=uri))
        assert [status for status, _ in answers] == [200] * 5 + [429] * 4
        assert await asked_for(stage) == before + 5
        waits = [re.search(r"wait (\d+) s", body["message"]) for _, body in answers[5:]]
        of_client, *_, of_all = [int(wait[1]) for wait in waits if wait]
        assert 6 < of_client <= 12, "five in a minute"
        assert of_all == 1, "one in a second, of all together"


async def test_a_token_that_was_used_or_is_too_old_has_nobody_asked(stage: Stage):
    _, uri = await published(stage)
    stranger = await stage.net.create_account(announce=False)
    before, now = await asked_for(stage), int(time.time())
    used = token(stranger, "verify")
    old = token(stranger, "verify", iat=now - 60, exp=now + 60)
    answers = [(await ask(stage, "verify", each, uri=uri))[0] for each in (used, used, old)]
    assert answers == [200, 401, 401]
    assert await asked_for(stage) == before + 1


async def test_a_key_that_may_have_changed_is_not_believed(tmp_path: Path):
    """Until the document has been looked at again the directory itself is asked."""
    async with staged(tmp_path, identity={"refresh_interval_s": 3600}) as stage:
        account, uri = await published(stage)
        revoked = account.key
        stage.net.rotate_key(account)
        stale = "SELECT (wanted | claimed) & 1 FROM repo WHERE did = ?"
        await wait_until(lambda: stage.daemon.rows(stale, account.did) == [(1,)], what="the event")
        now = int(time.time())
        claims = {"iss": account.did, "iat": now, "exp": now + 60, "lxm": SYNC + "verify"}
        old = mint(key=revoked, jti="old", **claims)
        assert (await ask(stage, "verify", old, uri=uri))[0] == 401
        assert (await ask(stage, "verify", token(account, "verify"), uri=uri))[0] == 200


async def test_a_token_that_was_made_before_the_start_is_not_accepted(tmp_path: Path):
    """Whatever the clock was at the start: a token of now is good once it is set."""
    clock = ShiftedClock(time.time() + 3600)
    async with staged(tmp_path, clock=clock) as stage:
        account, uri = await published(stage)
        clock.advance(-3600)
        now = int(time.time())
        before = token(account, "verify", iat=now - 60, exp=now + 60)
        assert (await ask(stage, "verify", before, uri=uri))[0] == 401
        assert (await refusals(stage))["token_stale"] == 1
        assert (await ask(stage, "verify", token(account, "verify"), uri=uri))[0] == 200


async def test_a_denied_author_is_not_served(stage: Stage):
    account, uri = await published(stage)
    await stage.do(INDEXER + "deny", subject=account.did, reason="spam")
    for name in ("indexRecord", "verify"):
        status, body = await ask(stage, name, token(account, name), uri=uri)
        assert (status, body["error"]) == (403, "Forbidden")
        forged = mint(key=stage.admin.key, **claims_of(account, name))
        status, body = await ask(stage, name, forged, uri=uri)
        assert (status, body["error"]) == (401, "AuthenticationRequired"), "who is denied is told"
    status, body = await ask(stage, "verify", token(stage.admin, "verify"), uri=uri)
    assert (status, body["indexed"]) == (200, False), "and nobody sees what is hidden"


async def test_a_host_is_put_down_to_be_scanned_a_few_for_each_author(stage: Stage):
    account, _ = await published(stage)
    urls = [f"http://127.0.0.1:{port}" for port in range(1, 8)]
    answers = [
        await ask(stage, "registerPDS", token(account, "registerPDS"), pdsUrl=url) for url in urls
    ]
    assert [status for status, _ in answers] == [200] * 5 + [429] * 2
    assert answers[0][1] == {"pdsUrl": urls[0], "registered": True, "status": "pending"}
    rows = stage.daemon.rows("SELECT url FROM host WHERE source = 'author' ORDER BY url")
    assert rows == [(url,) for url in urls[:5]]


async def test_authors_are_served_only_where_the_settings_say_so(tmp_path: Path):
    async with staged(tmp_path, admin={"author_methods": False}) as stage:
        for name in METHODS:
            status, body = await ask(stage, name, token(stage.admin, name), uri="at://x")
            assert (status, body["error"]) == (501, "MethodNotImplemented")
