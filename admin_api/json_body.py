"""Strict JSON: bytes from a client become a value, or a refusal that says why.

Refuses what lax readers take: duplicate keys, NaN and infinities, fractions, integers beyond 53
bits, nesting beyond `DEPTH_MAX`, invalid UTF-8, lone surrogates. Any bytes give a value or
`RequestRefused`; a value that passed can be encoded again.

Source: https://atproto.com/specs/data-model
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

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
            parse_constant=_NoInteger,
            parse_float=_NoInteger,
            parse_int=_integer,
        )
    except ValueError as exc:
        raise RequestRefused("InvalidRequest", f"the body is not valid JSON: {exc}") from exc
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as exc:
        raise RequestRefused("InvalidRequest", "the body has a lone surrogate") from exc
    _check_numbers(value, "the body")
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


@dataclass(frozen=True, slots=True)
class _NoInteger:
    """Stands for a number that is none of ours, until it is known what it is the value of."""

    text: str
    why: str = "is not an integer"


def _integer(text: str) -> int | _NoInteger:
    if len(text) > INTEGER_CHARS_MAX or abs(int(text)) > INTEGER_MAX:
        return _NoInteger(text, "is beyond 53 bits")
    return int(text)


def _check_numbers(value: object, name: str) -> None:
    """Refuse numbers that are no integers of ours, by the innermost name that they stand under."""
    match value:
        case _NoInteger(text, why):
            raise RequestRefused("InvalidRequest", f"{name}: {text[:20]} {why}")
        case dict():
            for key, each in value.items():
                _check_numbers(each, f"input {key[:100]}")
        case list():
            for each in value:
                _check_numbers(each, name)
