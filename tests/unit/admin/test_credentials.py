"""Every way to be let in or not, through a real listener."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import AsyncIterator, Callable
from types import FrameType

import pytest
from aiohttp import web
from raw_http import Answer, exchange, request
from tokens import (
    ABSENT,
    ADMIN,
    ALGS,
    KEYS,
    NOW,
    NSID,
    OTHER_ADMIN,
    OWN_DID,
    STRANGER,
    Directory,
    Horizon,
    SteppedClock,
    b64,
    claims,
    mint,
    sign,
)

from admin_api.auth import Authenticator, Passwords
from admin_api.clients import ClientAddresses
from admin_api.limits import FAILURES_MAX, WINDOW_S, FailureLimit
from admin_api.listener import listen
from admin_api.service_auth import (
    KEY_S,
    LEEWAY_S,
    LIFETIME_S_MAX,
    REFRESH_S,
    RETRY_S,
    ServiceTokens,
)
from admin_api.xrpc import error_response, json_response, refusal
from indexer.errors import LocalBusy, RequestRefused
from indexer.metrics import Metrics
from tests.devnet.keys import derive_key, high_s, multibase

PASSWORDS = ("correct horse battery", "päßword of the night shift")


class Door:
    """An authenticator behind a listener."""

    def __init__(self, *, passwords: tuple[str, ...] = PASSWORDS, admins=(ADMIN, OTHER_ADMIN)):
        self.clock = SteppedClock()
        self.directory = Directory()
        self.horizon = Horizon()
        self.metrics = Metrics()
        self.admins = admins
        self.passwords = passwords
        self.port = 0
        self.restart()

    def restart(self, **options) -> None:
        """As a new process would begin, with what is durable."""
        tokens = ServiceTokens(
            self.admins,
            own_did=OWN_DID,
            documents=self.directory,
            accepted=self.horizon,
            horizon=self.horizon.at,
            clock=self.clock,
            **options,
        )
        self._auth = Authenticator(
            Passwords(self.passwords),
            tokens if self.admins else None,
            own_did=OWN_DID,
            addresses=ClientAddresses([]),
            failures=FailureLimit(clock=self.clock),
            metrics=self.metrics,
        )

    async def answer(self, incoming: web.BaseRequest, path: str, _: str) -> web.Response:
        try:
            actor = await self._auth.authenticate(incoming, path.removeprefix("/xrpc/"))
        except RequestRefused as error:
            return refusal(error)
        except LocalBusy as error:
            return error_response(503, "NotEnoughResources", str(error))
        return json_response(200, {"did": actor.did, "own": actor.own_did})

    async def knock(self, *credentials: str, nsid: str = NSID) -> Answer:
        headers = [("Authorization", each) for each in credentials]
        return await exchange(self.port, request(f"/xrpc/{nsid}", *headers))

    def counted(self) -> dict[str, int]:
        """Reasons with the number of refusals, those that there are."""
        return {
            sample.labels["reason"]: int(sample.value)
            for metric in self.metrics.auth_failures.collect()
            for sample in metric.samples
            if sample.name.endswith("_total") and sample.value
        }


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    opened = Door()
    async with listen("admin", "127.0.0.1", 0, opened.answer) as port:
        opened.port = port
        yield opened


def basic(text: str | bytes) -> str:
    raw = text if isinstance(text, bytes) else text.encode()
    return "Basic " + base64.b64encode(raw).decode()


def altered_pad_bits(token: str) -> str:
    """The same bytes spelled otherwise: the last character has bits that nothing reads."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


def with_signature(signature: bytes) -> str:
    return mint().rpartition(".")[0] + "." + b64(signature)


def raw_token(header: bytes, body: bytes) -> str:
    return sign(f"{b64(header)}.{b64(body)}", KEYS[ADMIN])


HEAD = {"typ": "JWT", "alg": "ES256K"}
SIGNATURE = KEYS[ADMIN].sign(mint().rpartition(".")[0].encode())
K256_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

BAD_HEADERS: list[tuple[str, str]] = [
    ("", "scheme"),
    ("Basic", "wrong"),
    ("basic =", "malformed"),
    ("Basic !!!!", "malformed"),
    (basic("admin"), "wrong"),
    (basic(":"), "wrong"),
    (basic(":" + PASSWORDS[0]), "wrong"),
    (basic("admin:"), "wrong"),
    (basic("admin:wrong"), "wrong"),
    (basic("admin:" + PASSWORDS[0][:-1]), "wrong"),
    (basic("admin:" + PASSWORDS[0] + "x"), "wrong"),
    (basic("admin: " + PASSWORDS[0]), "wrong"),
    (basic("admin:" + PASSWORDS[0].upper()), "wrong"),
    (basic("Admin:" + PASSWORDS[0]), "wrong"),
    (basic("root:" + PASSWORDS[0]), "wrong"),
    (basic("admin:" + "\n".join(PASSWORDS)), "wrong"),
    (basic(b"admin:\xff\xfe"), "wrong"),
    (basic(b"\0" * 6000), "wrong"),
    (basic("admin:" + PASSWORDS[0]).removesuffix("=") + "*", "malformed"),
    (basic("admin:" + PASSWORDS[0])[:-1], "malformed"),
    ("Basic " + PASSWORDS[0], "malformed"),
    (PASSWORDS[0], "scheme"),
    ("Digest username=admin", "scheme"),
    ("DPoP " + mint(), "scheme"),
    ("Bearer", "token_form"),
    ("Bearer " + basic("admin:" + PASSWORDS[0]).split()[1], "token_form"),
]

BAD_TOKENS: list[tuple[str, str]] = [
    ("a" * 4097, "token_size"),
    (mint(x="a" * 3000), "token_size"),
    (".", "token_form"),
    ("..", "token_form"),
    ("a.b", "token_form"),
    ("a.b.c", "token_form"),
    (mint() + ".", "token_form"),
    (mint() + "." + b64(b"x"), "token_form"),
    (mint() + "=", "token_form"),
    (mint().replace(".", " . "), "token_form"),
    (mint().rpartition(".")[0] + ".", "token_form"),
    (altered_pad_bits(mint()), "token_form"),
    (mint()[:-1] + "é", "token_form"),
    (mint().replace("-", "+").replace("_", "/") + "+/", "token_form"),
    (raw_token(b"\xff", json.dumps(claims()).encode()), "token_form"),
    (raw_token(b"null", json.dumps(claims()).encode()), "token_form"),
    (raw_token(b"[]", json.dumps(claims()).encode()), "token_form"),
    (raw_token(json.dumps(HEAD).encode(), b"[" * 2000), "token_form"),
    (raw_token(json.dumps(HEAD).encode(), b'"text"'), "token_form"),
    (raw_token(json.dumps(HEAD).encode(), b'{"iss":"a","iss":"b"}'), "token_form"),
    (raw_token(b'{"alg":"none","alg":"ES256K"}', json.dumps(claims()).encode()), "token_form"),
    (mint(exp=NOW + 60.5), "token_form"),
    (mint(exp=float("nan")), "token_form"),
    (mint(exp=10**30), "token_form"),
    (mint(header={"alg": "none"}), "token_alg"),
    (mint(header={"alg": ABSENT}), "token_alg"),
    (mint(header={"alg": "HS256"}), "token_alg"),
    (mint(header={"alg": "es256k"}), "token_alg"),
    (mint(header={"alg": "EdDSA"}), "token_alg"),
    (mint(header={"alg": ["ES256K"]}), "token_alg"),
    (mint(header={"alg": None}), "token_alg"),
    (mint(header={"typ": "at+jwt"}), "token_typ"),
    (mint(header={"typ": "refresh+jwt"}), "token_typ"),
    (mint(header={"typ": "dpop+jwt"}), "token_typ"),
    (mint(header={"typ": ["JWT"]}), "token_typ"),
    (mint(header={"typ": None}), "token_typ"),
    (mint(header={"kid": "#atproto_labeler"}), "token_kid"),
    (mint(header={"kid": "../../etc/passwd"}), "token_kid"),
    (mint(header={"kid": 1}), "token_kid"),
    (mint(header={"crit": ["exp"]}), "token_crit"),
    (mint(header={"crit": []}), "token_crit"),
    (mint(aud=ABSENT), "token_aud"),
    (mint(aud=None), "token_aud"),
    (mint(aud=[OWN_DID]), "token_aud"),
    (mint(aud={}), "token_aud"),
    (mint(aud="did:web:chive.example"), "token_aud"),
    (mint(aud=OWN_DID + "#other"), "token_aud"),
    (mint(aud=OWN_DID + "#"), "token_aud"),
    (mint(aud=OWN_DID.upper()), "token_aud"),
    (mint(aud=OWN_DID + ":path"), "token_aud"),
    (mint(aud="*"), "token_aud"),
    (mint(lxm=ABSENT), "token_lxm"),
    (mint(lxm=None), "token_lxm"),
    (mint(lxm="*"), "token_lxm"),
    (mint(lxm=[NSID]), "token_lxm"),
    (mint(lxm="pub.chive.admin.getAuditLog"), "token_lxm"),
    (mint(lxm="pub.chive.admin.*"), "token_lxm"),
    (mint(lxm=NSID.upper()), "token_lxm"),
    (mint(exp=ABSENT), "token_exp"),
    (mint(exp=None), "token_exp"),
    (mint(exp=str(NOW + 60)), "token_exp"),
    (mint(exp=True), "token_exp"),
    (mint(iat=ABSENT), "token_iat"),
    (mint(iat=str(NOW)), "token_iat"),
    (mint(iat=False), "token_iat"),
    (mint(iat=NOW + 60), "token_iat"),
    (mint(iat=NOW + 61), "token_iat"),
    (mint(iat=NOW - 60, exp=NOW - 5), "token_expired"),
    (mint(iat=0, exp=1), "token_expired"),
    (mint(iat=-2, exp=-1), "token_expired"),
    (mint(iat=NOW + 6), "token_future"),
    (mint(iat=NOW + 4000, exp=NOW + 4060), "token_future"),
    (mint(exp=NOW + 301), "token_lifetime"),
    (mint(iat=1), "token_lifetime"),
    (mint(exp=NOW + 10 * 365 * 86400), "token_lifetime"),
    (mint(nbf=NOW + 6), "token_nbf"),
    (mint(nbf="now"), "token_nbf"),
    (mint(jti=ABSENT), "token_jti"),
    (mint(jti=""), "token_jti"),
    (mint(jti=1), "token_jti"),
    (mint(jti="x" * 257), "token_jti"),
    (mint(iss=ABSENT), "token_iss"),
    (mint(iss=None), "token_iss"),
    (mint(iss=ADMIN + "#atproto"), "token_iss"),
    (mint(iss=[ADMIN]), "token_iss"),
    (mint(iss="admin"), "token_iss"),
    (mint(iss="https://evil.example"), "token_iss"),
    (mint(iss=STRANGER), "not_admin"),
    (mint(iss="did:web:evil.example"), "not_admin"),
    (mint(iss=ADMIN.upper().replace("DID:PLC", "did:plc")), "not_admin"),
    (mint(iss=OWN_DID), "not_admin"),
    (mint(iss=STRANGER, key=KEYS[ADMIN]), "not_admin"),
    (mint(iss=STRANGER).rpartition(".")[0] + "." + b64(b"\0" * 64), "not_admin"),
    (mint(key=KEYS[OTHER_ADMIN]), "token_key"),
    (mint(key=KEYS[OTHER_ADMIN], header={"alg": "ES256K"}), "token_signature"),
    (mint(header={"alg": "ES256"}), "token_key"),
    (mint(key=KEYS[STRANGER]), "token_signature"),
    (with_signature(high_s(SIGNATURE, "k256")), "token_signature"),
    (with_signature(SIGNATURE[:-1]), "token_signature"),
    (with_signature(SIGNATURE + b"\0"), "token_signature"),
    (with_signature(b"\0" * 64), "token_signature"),
    (with_signature(SIGNATURE[:32] + b"\0" * 32), "token_signature"),
    (with_signature(K256_ORDER.to_bytes(32) + SIGNATURE[32:]), "token_signature"),
    (with_signature(SIGNATURE[32:] + SIGNATURE[:32]), "token_signature"),
    (with_signature(b"0E\x02!\0" + SIGNATURE), "token_signature"),
    (mint(iss=OTHER_ADMIN, key=KEYS[ADMIN], header={"alg": "ES256"}), "token_signature"),
    (".".join([*mint(x=1).split(".")[:2], mint().split(".")[2]]), "token_signature"),
]
BAD = BAD_HEADERS + [("Bearer " + token, reason) for token, reason in BAD_TOKENS]


def test_the_table_of_bad_credentials_is_long_and_has_no_doubles():
    assert len({credential for credential, _ in BAD}) == len(BAD) >= 120
    assert len({reason for _, reason in BAD}) == 22


@pytest.mark.parametrize(
    ("credential", "reason"), BAD, ids=[f"{reason}-{i}" for i, (_, reason) in enumerate(BAD)]
)
async def test_a_bad_credential_is_refused_for_its_own_counted_reason(
    door: Door, credential: str, reason: str
):
    usual = await door.knock()
    credential = credential.encode().decode("latin-1")
    answer = await door.knock(credential)
    if reason == "not_admin":
        assert (answer.status, answer.error) == (403, "AdminRequired")
    else:
        assert (answer.status, answer.error) == (401, "AuthenticationRequired")
        assert answer.headers["www-authenticate"].startswith("Basic ")
        assert (answer.body, answer.headers.keys()) == (usual.body, usual.headers.keys())
    assert door.counted() == {"missing": 1, reason: 1}
    may_ask = reason in {"token_key", "token_signature"}
    assert set(door.directory.asked) <= ({ADMIN, OTHER_ADMIN} if may_ask else set())
    assert door.horizon.at == 0


@pytest.mark.parametrize("password", PASSWORDS)
async def test_each_password_lets_in_whoever_knows_it(door: Door, password: str):
    for spelling in (basic("admin:" + password), basic("admin:" + password).replace("B", "b", 1)):
        assert (await door.knock(spelling)).json() == {"did": OWN_DID, "own": None}
    assert door.counted() == {}


@pytest.mark.parametrize("issuer", [ADMIN, OTHER_ADMIN])
@pytest.mark.parametrize("audience", [OWN_DID, OWN_DID + "#chive_indexer"])
async def test_a_token_of_a_listed_admin_lets_in_once(door: Door, issuer: str, audience: str):
    token = "Bearer " + mint(iss=issuer, aud=audience)
    assert (await door.knock(token)).json() == {"did": issuer, "own": issuer}
    assert (await door.knock(token)).error == "AuthenticationRequired"
    assert door.counted() == {"token_replayed": 1}
    assert door.directory.asked == [issuer]


async def test_what_hosts_may_write_differently_is_accepted(door: Door):
    tolerated = [
        {"header": {"typ": ABSENT}},
        {"header": {"kid": "#atproto"}},
        {"exp": NOW + int(LIFETIME_S_MAX)},
        {"iat": NOW + int(LEEWAY_S)},
        {"iat": NOW - 60, "exp": NOW - 4},
        {"nbf": NOW + 5},
        {"sub": ADMIN, "scope": "x"},
        {"jti": "é" * 256},
    ]
    for number, changed in enumerate(tolerated):
        changed.setdefault("jti", str(number))
        assert (await door.knock("Bearer " + mint(**changed))).status == 200, changed


async def test_two_authorization_headers_are_refused_even_if_both_are_right(door: Door):
    right = basic("admin:" + PASSWORDS[0])
    assert (await door.knock(right, right)).status == 401
    assert door.counted() == {"repeated": 1}


async def test_a_token_is_for_its_method_and_for_nothing_else(door: Door):
    token = "Bearer " + mint()
    assert (await door.knock(token, nsid="pub.chive.admin.triggerBackfill")).status == 401
    assert door.counted() == {"token_lxm": 1}
    assert (await door.knock(token)).status == 200


async def test_a_used_token_stays_used_after_a_restart(door: Door):
    token = "Bearer " + mint()
    assert (await door.knock(token)).status == 200
    door.restart()
    assert (await door.knock(token)).status == 401
    assert door.counted() == {"token_stale": 1}
    door.clock.at += 1
    assert (await door.knock("Bearer " + mint(iat=NOW + 1))).status == 200


async def test_nobody_is_let_in_while_it_cannot_be_remembered(door: Door):
    door.horizon.is_full = True
    for number in range(2):
        assert (await door.knock("Bearer " + mint(jti=str(number)))).status == 503
    door.horizon.is_full = False
    assert (await door.knock("Bearer " + mint(jti="3"))).status == 200
    assert door.horizon.at == NOW


async def test_a_full_table_of_used_tokens_forgets_none_that_could_be_used_again(door: Door):
    door.restart(remembered_max=3)
    made = [mint(iat=NOW + number, jti=str(number)) for number in range(5)]
    for token in made:
        assert (await door.knock("Bearer " + token)).status == 200
    door.clock.at += 1
    for token in made:
        assert (await door.knock("Bearer " + token)).status == 401
    assert door.counted() == {"token_stale": 2, "token_replayed": 3}


async def test_a_clock_set_back_does_not_make_a_token_usable_again(door: Door):
    token = "Bearer " + mint()
    assert (await door.knock(token)).status == 200
    door.clock.at += 400
    assert (await door.knock("Bearer " + mint(iat=NOW + 400, exp=NOW + 460, jti="2"))).status == 200
    door.clock.set_back_by = 400
    assert (await door.knock(token)).status == 401
    assert door.counted() == {"token_stale": 1}


@pytest.mark.parametrize("is_monotonic_paused", [True, False])
async def test_after_a_stop_of_the_process_a_used_token_is_refused_and_a_new_one_is_not(
    door: Door, is_monotonic_paused: bool
):
    """Of a machine that was paused the monotonic clock may have stood still, or not."""
    token = "Bearer " + mint(exp=NOW + int(LIFETIME_S_MAX))
    assert (await door.knock(token)).status == 200
    for stopped_s, reason in ((LIFETIME_S_MAX - 10.0, "token_replayed"), (310.0, "token_expired")):
        door.clock.at += stopped_s
        if is_monotonic_paused:
            door.clock.paused_s += stopped_s
        assert (await door.knock(token)).status == 401
        assert door.counted()[reason] == 1
    now = int(door.clock.now())
    new = "Bearer " + mint(iat=now, exp=now + 60, jti="after the stop")
    assert [(await door.knock(new)).status for _ in range(2)] == [200, 401]


async def test_a_key_is_asked_for_once_in_its_time(door: Door):
    for number in range(20):
        assert (await door.knock("Bearer " + mint(jti=str(number)))).status == 200
    assert door.directory.asked == [ADMIN]
    door.clock.at += KEY_S
    now = int(door.clock.at)
    assert (await door.knock("Bearer " + mint(iat=now, exp=now + 60))).status == 200
    assert door.directory.asked == [ADMIN] * 2


async def test_a_rotated_key_is_found_at_once_and_forgeries_do_not_make_us_ask_more(door: Door):
    assert (await door.knock("Bearer " + mint())).status == 200
    door.clock.at += REFRESH_S
    rotated = derive_key("p256", "rotated")
    door.directory.keys[ADMIN] = multibase(rotated)
    assert ALGS[rotated.curve] == "ES256"
    assert (await door.knock("Bearer " + mint(jti="2", key=rotated))).status == 200
    assert door.directory.asked == [ADMIN] * 2
    for number in range(FAILURES_MAX):
        forged = mint(jti=f"f{number}", key=KEYS[STRANGER])
        assert (await door.knock("Bearer " + forged)).status == 401
    assert (await door.knock("Bearer " + mint(jti="3"))).status == 429, "the old key is no more"
    assert door.directory.asked == [ADMIN] * 2


async def test_an_issuer_whose_did_is_gone_is_refused_and_one_that_cannot_be_asked_for_is_503(
    door: Door,
):
    del door.directory.keys[OTHER_ADMIN]
    for number in range(3):
        token = mint(iss=OTHER_ADMIN, jti=str(number))
        assert (await door.knock("Bearer " + token)).error == "AuthenticationRequired"
    assert door.counted() == {"issuer_unknown": 3}
    door.directory.is_down = True
    for number in range(20):
        answer = await door.knock("Bearer " + mint(jti=str(number)))
        assert (answer.status, answer.error) == (503, "NotEnoughResources")
        assert int(answer.headers["retry-after"]) > 0
    assert door.counted() == {"issuer_unknown": 3, "issuer_unavailable": 20}
    assert door.directory.asked == [OTHER_ADMIN, ADMIN], "a failure is remembered"
    door.directory.is_down = False
    door.clock.at += RETRY_S
    assert (await door.knock("Bearer " + mint())).status == 200


async def test_who_keeps_failing_is_told_to_wait_and_a_right_credential_still_passes(door: Door):
    for _ in range(FAILURES_MAX):
        assert (await door.knock(basic("admin:guess"))).status == 401
    for credential in [basic("admin:guess"), "Bearer x", "Bearer " + mint(iss=STRANGER), ""]:
        answer = await door.knock(credential)
        assert (answer.status, answer.error) == (429, "RateLimitExceeded")
        assert answer.headers["retry-after"] == str(int(WINDOW_S))
        assert answer.headers["ratelimit-remaining"] == "0"
        assert answer.headers["www-authenticate"].startswith("Basic "), "another may be right"
    assert door.counted()["limited"] == 4
    assert (await door.knock(basic("admin:" + PASSWORDS[0]))).status == 200
    assert (await door.knock("Bearer " + mint())).status == 200
    door.clock.at += WINDOW_S
    assert (await door.knock(basic("admin:guess"))).status == 401


async def test_of_a_thousand_wrong_passwords_all_but_ten_are_429_and_a_right_one_passes(door: Door):
    statuses = [(await door.knock(basic(f"admin:guess {i}"))).status for i in range(1000)]
    assert statuses == [401] * FAILURES_MAX + [429] * (1000 - FAILURES_MAX)
    assert door.counted() == {"wrong": 1000, "limited": 1000 - FAILURES_MAX}
    assert (await door.knock(basic("admin:" + PASSWORDS[1]))).status == 200


def calls_of(act: Callable[[], object]) -> list[str]:
    """Names of all functions that are called meanwhile, in their order."""
    calls: list[str] = []

    def heard(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            calls.append(frame.f_code.co_name)
        elif event == "c_call":
            calls.append(argument.__name__)

    sys.setprofile(heard)
    try:
        act()
    finally:
        sys.setprofile(None)
    return calls


def test_the_work_of_judging_a_password_says_nothing_of_how_nearly_it_is_right():
    """Every password is compared in constant time, whether one before it was right or not."""
    passwords, (first, second) = Passwords(PASSWORDS), PASSWORDS
    near = ["", "x", first[:-1], first + "x", first[:-1] + "x", second[:-1], "x" * 10_000]
    made = []
    for guess, is_right in [*((guess, False) for guess in near), (first, True), (second, True)]:
        credential = f"admin:{guess}".encode()
        assert (credential in passwords) is is_right
        made.append(calls_of(lambda credential=credential: passwords.__contains__(credential)))
    assert made == [made[0]] * len(made)
    assert made[0].count("compare_digest") == len(PASSWORDS)


@pytest.mark.parametrize("credential", [basic("admin:"), basic("admin:x"), "Bearer " + mint()])
async def test_without_anything_configured_nobody_is_let_in(credential: str):
    closed = Door(passwords=(), admins=())
    async with listen("admin", "127.0.0.1", 0, closed.answer) as closed.port:
        answer = await closed.knock(credential)
        assert (answer.status, answer.error) == (401, "AuthenticationRequired")
        assert b"admin.password_file" in answer.body
        assert answer.body == (await closed.knock()).body
    assert closed.counted() == {"unconfigured": 1, "missing": 1}
