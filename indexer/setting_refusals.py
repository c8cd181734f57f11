"""The one line that says why settings are refused: key, value and what is allowed.

Owns how it reads. A value is cut short, has its line breaks escaped, and is left out where a secret
may have been written to the wrong place, because the line ends up in a journal.
"""

from __future__ import annotations

import re

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from indexer.errors import ConfigurationError

VALUE_CHARS_MAX = 200
"""Longest part of a refused value that an error message repeats."""

LINE_CHARS_MAX = 1000

WHOLE_NUMBER = "must be a whole number"

ALLOWED_TEXTS = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": WHOLE_NUMBER,
    "int_parsing": WHOLE_NUMBER,
    "int_parsing_size": WHOLE_NUMBER,
    "int_type": WHOLE_NUMBER,
    "model_type": "must be a table of settings",
    "path_type": "must be a path",
    "string_type": "must be a text",
    "too_short": "must have at least one entry",
    "tuple_type": "must be a list",
}
"""Kinds of refusal for which pydantic speaks of Python instead of TOML."""

_SECRET_NAME = re.compile("password|secret|token|credential", re.IGNORECASE)
_URL_USER = re.compile(r"//[^/@\s]*@")


def refusal(text: str) -> ConfigurationError:
    """The error with its line; keys and paths may hold anything, a line break too."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:LINE_CHARS_MAX])
    return ConfigurationError(line)


def shown(name: str, value: object) -> str:
    """The value of the setting `name` as a journal may have it."""
    text = repr(value)
    if _SECRET_NAME.search(name) or (isinstance(value, dict) and _SECRET_NAME.search(text)):
        return "(not shown)"
    return _URL_USER.sub("//(not shown)@", text)[:VALUE_CHARS_MAX]


def first_problem(error: ValidationError) -> str:
    """The first refused key, its value, and all that would have been allowed for it."""
    details = error.errors(include_url=False)
    first = details[0]
    key = _key(first)
    texts = dict.fromkeys(_allowed(detail) for detail in details if _key(detail) == key)
    allowed = " or ".join(texts).replace(" or must be ", " or ")
    return f"{key} = {shown(key, first['input'])}: {allowed}" if key else allowed


def _key(detail: ErrorDetails) -> str:
    """`section.key`, with the index of a list's entry; what pydantic adds for unions is left out.

    ("firehose", "start", "constrained-int") -> "firehose.start"
    ("scope", "collections", 1) -> "scope.collections[1]"
    """
    place = detail["loc"]
    entry = "".join(f"[{part}]" for part in place[2:3] if isinstance(part, int))
    return ".".join(str(part) for part in place[:2]) + entry


def _allowed(detail: ErrorDetails) -> str:
    if detail["type"] in ALLOWED_TEXTS:
        return ALLOWED_TEXTS[detail["type"]]
    message = detail["msg"].removeprefix("Value error, ")
    return message.replace("Input should be", "must be", 1)
