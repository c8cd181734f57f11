"""Strict JSON: bytes from a client become a value, or a refusal that says why.

Refuses what lax readers take: duplicate keys, NaN and infinities, fractions, integers beyond 53
bits, nesting beyond `DEPTH_MAX`, invalid UTF-8, lone surrogates. Any bytes give a value or
`RequestRefused`; a value that passed can be encoded again.

Source: https://atproto.com/specs/data-model
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from indexer.errors import RequestRefused
from indexer.model import Json

BODY_BYTES_MAX = 150_000
"""The limit of the reference PDS for JSON."""

DEPTH_MAX = 32
INTEGER_MAX = 2**53 - 1
INTEGER_CHARS_MAX = 17
"""A sign and the digits of `INTEGER_MAX`."""

_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
"""A string (an unterminated one runs to the end, which keeps the scan linear) or a bracket."""


def read_json(body: bytes) -> Json:
    """The value in a body of at most `BODY_BYTES_MAX`. Raises `RequestRefused` (InvalidRequest)."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise RequestRefused("InvalidRequest", "the body is not UTF-8") from exc
    _check_depth(text)
    try:
        value: Json = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_number,
            parse_float=_refuse_number,
            parse_int=_integer,
        )
    except ValueError as exc:
        raise RequestRefused("InvalidRequest", f"the body is not valid JSON: {exc}") from exc
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:
        raise RequestRefused("InvalidRequest", "the body has a lone surrogate") from exc
    return value


def _check_depth(text: str) -> None:
    """Refuse deep nesting before a recursive parser sees it; brackets in strings do not count."""
    depth = 0
    for match in _BRACKETS.finditer(text):
        first = match[0][0]
        if first in "[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise RequestRefused(
                    "InvalidRequest", f"the body is nested more than {DEPTH_MAX} deep"
                )
        elif first in "]}":
            depth -= 1


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is not an integer")


def _integer(text: str) -> int:
    if len(text) > INTEGER_CHARS_MAX or abs(int(text)) > INTEGER_MAX:
        raise ValueError(f"{text[:20]} is beyond 53 bits")
    return int(text)
