"""The recorded real PDS, played back: what it sent must end in exactly the records it lists."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from indexer.daemon import Addresses
from tests.e2e.daemon import ShiftedClock, running_daemon, wait_until
from tests.e2e.recorded import RecordedNetwork

ODD = {"gail", "frank"}  # migrated while the recording ran


def stored(path: Path) -> dict[str, tuple[str, Any]]:
    """uri -> (cid, value) of the view for readers."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT uri, cid, value FROM records").fetchall()
    return {uri: (cid, json.loads(value)) for uri, cid, value in rows}


def expected(network: RecordedNetwork) -> dict[str, tuple[str, Any]]:
    """What listRecords said at the end of every active account that this run can know of."""
    records: dict[str, tuple[str, Any]] = {}
    seen = {body.get("repo") or body.get("did") for _, _, body in network.frames}
    for did, account in network.accounts.items():
        code, status = account["getRepoStatus"]
        if did not in seen or code != 200 or not status["active"]:
            continue
        for path, record in account["records"].items():
            if path.startswith("pub.chive."):
                records[f"at://{did}/{path}"] = (record["cid"], record["value"])
    return records


NO_DIFFERENCE: dict[str, list[str]] = {
    kind: [] for kind in ("missing", "extra", "cid", "value", "hidden")
}


def hidden_records(network: RecordedNetwork, want: dict[str, tuple[str, Any]]) -> set[str]:
    """Records that listRecords hides (taken down one by one) and the signed repo has."""
    dids = {uri.split("/")[2] for uri in want}
    return {
        uri
        for account in network.accounts.values()
        for uri in account.get("takendownRecords", ())
        if uri.split("/")[2] in dids
    }


def differences(network: RecordedNetwork, path: Path) -> dict[str, list[str]]:
    want, have = expected(network), stored(path)
    hidden = hidden_records(network, want)
    return {
        "missing": sorted(want.keys() - have.keys()),
        "extra": sorted(have.keys() - want.keys() - hidden),
        "cid": sorted(uri for uri in want.keys() & have.keys() if want[uri][0] != have[uri][0]),
        "value": sorted(
            uri
            for uri in want.keys() & have.keys()
            if not (isinstance(want[uri][1], dict) and "$omitted" in want[uri][1])
            and want[uri][1] != have[uri][1]
        ),
        "hidden": sorted(hidden - have.keys()),
    }


async def metric(addresses: Addresses, name: str) -> dict[str, float]:
    """Samples of one metric: label text -> value."""
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(addresses.metrics_url) as response:
        lines = (await response.text()).splitlines()
    return {
        line.rsplit(" ", 1)[0].removeprefix(name): float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith((name + "{", name + " "))
    }


@pytest.mark.parametrize("repos", ["first", "final"])
@pytest.mark.parametrize("host", ["pds1", "pds2"])
async def test_a_recorded_host_ends_record_for_record_as_it_lists(
    host: str, repos: str, tmp_path: Path
):
    network = RecordedNetwork(host, repos)
    clock = ShiftedClock(network.ended_at + 10.0)
    async with (
        network.serve(),
        running_daemon(
            tmp_path,
            {
                "firehose": {"url": network.urls[host].replace("http:", "ws:"), "start": "oldest"},
                "identity": {"plc_url": network.urls["plc"]},
                "network": {"allow_private_hosts": True, "requests_per_s_per_host": 1000},
            },
            clock=clock,
        ) as daemon,
    ):
        followed = {
            did: account["name"]
            for did, account in network.accounts.items()
            if network.created_here(did)
        }
        if repos == "first":
            # Every row has to come from frames: begin with the empty repos.
            for did in followed:
                operation = await daemon.backfill("didSync", did=did)
                assert operation["status"] == "completed", operation
            assert stored(daemon.database) == {}
        network.release.set()
        await wait_until(lambda: network.is_finished, what="the stream to be sent")
        await wait_until(
            lambda: daemon.rows("SELECT cursor FROM firehose") == [(network.last_seq,)],
            what="the cursor",
        )

        def has_the_recorded_cids() -> bool:
            # What the other host brought in after the migrations never comes with this stream: it
            # is fetched once the stream cannot have it in store any more. Time passes faster.
            clock.advance(20.0)
            have = dict(daemon.rows("SELECT uri, cid FROM records"))
            return all(have.get(uri) == cid for uri, (cid, _) in want.items()) and len(have) <= len(
                want
            ) + len(hidden_records(network, want))

        want = expected(network)
        with suppress(AssertionError):  # said better by the comparison that follows
            await wait_until(has_the_recorded_cids, what="the recorded records")
        assert differences(network, daemon.database) == NO_DIFFERENCE
        failures = await metric(daemon.addresses, "chive_verify_failures_total")
        assert {check: n for check, n in failures.items() if n} == {}
        assert daemon.rows("SELECT count(*) FROM dead_letters WHERE reason <> 'record'") == [(0,)]
        events = await metric(daemon.addresses, "chive_firehose_events_total")
        assert events['{type="commit"}'] == sum(h["t"] == "#commit" for _, h, _ in network.frames)
        if repos == "first":
            outcomes = await metric(daemon.addresses, "chive_event_outcomes_total")
            applied = outcomes['{outcome="applied",source="live"}']
            assert applied >= {"pds1": 400, "pds2": 50}[host], outcomes
            again = [
                followed[did] for did in network.repo_requests[len(followed) :] if did in followed
            ]
            assert set(again) <= ODD, again
