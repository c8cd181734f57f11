"""Methods that tell how the daemon is: stream, store, dead letters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib.metadata import version

import msgspec

from admin_api.xrpc import Call, Handler
from indexer.clock import Clock
from indexer.errors import LocalBusy
from indexer.model import DeadLetter, Json, utc_text
from indexer.ports import Status
from indexer.protocol.syntax import is_at_uri, is_did

DEAD_LETTERS_DEFAULT = 50


def status_handlers(
    status: Status, notes: Callable[[], Mapping[str, str]], *, clock: Clock
) -> Mapping[str, Handler]:
    """NSID -> handler. `notes`: what else there is to know of how the daemon is, by subject."""

    async def firehose_status(_: Call) -> Json:
        stream, counts = await status.firehose(), await status.counts()
        now = clock.now()
        known: dict[str, Json] = {
            "cursor": None if stream.cursor is None else str(stream.cursor),
            "lastEventAt": _time(stream.last_event_at),
            "lastReceivedAt": _time(stream.last_received_at),
            "lagSeconds": (
                None if stream.last_event_at is None else max(int(now - stream.last_event_at), 0)
            ),
        }
        value: dict[str, Json] = {
            "dlqCount": sum(counts.dead_letters.values()),
            "timestamp": utc_text(now),
            "url": stream.url,
            "connected": stream.connected,
            "paused": stream.paused,
        }
        return value | {name: each for name, each in known.items() if each is not None}

    async def system_health(_: Call) -> Json:
        store: dict[str, Json] = {"name": "sqlite"}
        try:
            store["latencyMs"] = round(1000 * await status.check_store())
        except LocalBusy as error:
            store["error"] = str(error)
        components = await status.readiness()
        problems = [reason for reason in components.values() if reason is not None]
        store["healthy"] = "error" not in store
        parts: list[Json] = [
            {"name": name} if reason is None else {"name": name, "reason": reason}
            for name, reason in components.items()
        ]
        health = "unhealthy" if not store["healthy"] else "degraded" if problems else "healthy"
        return {
            "status": health,
            "databases": [store],
            "uptime": int(status.uptime_s()),
            "timestamp": utc_text(clock.now()),
            "version": version("chive-indexer"),
            "components": parts,
            "notes": [{"subject": subject, "note": note} for subject, note in notes().items()],
        }

    async def overview(_: Call) -> Json:
        totals: dict[str, Json] = dataclasses.asdict(await status.overview())
        states = (await status.counts()).repos
        return totals | {
            "repoStates": [{"state": name, "repos": states[name]} for name in sorted(states)]
        }

    async def dead_letters(call: Call) -> Json:
        limit = msgspec.convert(call.params.get("limit", DEAD_LETTERS_DEFAULT), int)
        offset = msgspec.convert(call.params.get("offset", 0), int)
        letters, total = await status.dead_letters(limit=limit, offset=offset)
        return {"entries": [_dead_letter_json(letter) for letter in letters], "total": total}

    return {
        "pub.chive.admin.getFirehoseStatus": firehose_status,
        "pub.chive.admin.getSystemHealth": system_health,
        "pub.chive.admin.getOverview": overview,
        "pub.chive.admin.listDLQEntries": dead_letters,
    }


def _time(at: float | None) -> str | None:
    return None if at is None else utc_text(at)


def _dead_letter_json(letter: DeadLetter) -> Json:
    """A refusal as the lexicon has it.

    What upstream called a DID or a URI is passed on only where it is one; the message has it too.
    """
    value: dict[str, Json] = {
        "id": str(letter.id),
        "errorType": letter.reason,
        "errorMessage": letter.message,
        "retryCount": letter.retry_count,
        "createdAt": utc_text(letter.created_at),
    }
    known: dict[str, Json] = {
        "did": letter.did if letter.did is not None and is_did(letter.did) else None,
        "uri": letter.uri if letter.uri is not None and is_at_uri(letter.uri) else None,
        "seq": letter.seq,
        "lastRetryAt": _time(letter.last_retry_at),
    }
    value.update({name: each for name, each in known.items() if each is not None})
    return value
