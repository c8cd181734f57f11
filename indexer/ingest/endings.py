"""Why a stream ended: the closed vocabulary of the firehose and of its consumer.

Owns the labels of `chive_firehose_reconnects_total`. Each names a cause that an operator can act
on, not a place in the code; whatever the peer writes about it goes into `detail`, bounded.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

DETAIL_CHARS_MAX = 1000
"""Longest text of the peer that is kept for a log line."""


class ReconnectReason(StrEnum):
    """Why a connection ended, or an attempt failed: the labels of `firehose_reconnects`."""

    CLOSED = "closed"  # the peer sent a close frame, with whatever code
    LOST = "lost"  # TCP ended without a close frame: FIN or RST
    CONNECT = "connect"  # no TCP connection: name, route, refusal, timeout
    TLS = "tls"  # the certificate or the TLS handshake was not acceptable
    HANDSHAKE = "handshake"  # the HTTP answer is no websocket handshake, or a server error
    THROTTLED = "throttled"  # the handshake was answered 429 or 503
    REFUSED = "refused"  # the handshake was answered 403, 404...: a quick retry is vain
    BLOCKED = "blocked"  # a redirect or an address that we do not contact
    PROTOCOL = "protocol"  # the peer broke the websocket protocol, or does not read our answers
    OVERSIZE = "oversize"  # a message above the cap
    SLOW_MESSAGE = "slow_message"  # one message took longer than allowed to arrive
    KEEPALIVE = "keepalive"  # no byte arrived for too long although we were reading and pinging
    IDLE = "idle"  # bytes, but no message, for longer than a full relay is ever silent
    TEXT_FRAMES = "text_frames"  # too many text messages, which the stream does not have
    BACKPRESSURE = "backpressure"  # our own consumer stalled for too long
    PAUSED = "paused"  # an operation asked for silence
    POISON = "poison"  # the consumer could not decode a frame
    OUT_OF_ORDER = "out_of_order"  # the consumer saw sequence numbers run backwards
    CONSUMER_TOO_SLOW = "consumer_too_slow"  # an error frame of that name
    FUTURE_CURSOR = "future_cursor"  # an error frame of that name
    ERROR_FRAME = "error_frame"  # an error frame of another name
    OPERATOR = "operator"  # an operator changed the cursor
    CLOCK = "clock"  # our clock was in doubt, and is no more


class End(NamedTuple):
    """How a connection ended."""

    reason: ReconnectReason
    detail: str  # at most DETAIL_CHARS_MAX of possibly hostile text
