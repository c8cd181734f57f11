"""Tags: what a tag record becomes, and the normal form under which tags of the same word meet."""

from __future__ import annotations

import unicodedata

from indexer.derived import SqlValue
from indexer.records.projection import (
    RecordContext,
    RecordType,
    SqlType,
    Value,
    computed,
    mark,
    text,
)

_KEPT = frozenset("LMN")  # letters, marks, numbers: of every script
_KEPT_SIGNS = frozenset("+#")  # C++ and C# are not C


def normal_tag(tag: str) -> str:
    """Case folded, compatibility forms unified, words joined by single spaces.

    Letters, marks and digits of every script stay; everything else separates words or vanishes:
    `"Deep_Learning!"` -> `"deep learning"`, `"機械 学習"` -> `"機械 学習"`. Of a tag without any
    letter or digit (an emoji) its own folded text is the normal form, so that it never becomes
    empty and merges with strangers.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", tag).casefold())
    spaced = "".join(
        letter
        if unicodedata.category(letter)[0] in _KEPT or letter in _KEPT_SIGNS
        else _substitute(letter)
        for letter in folded
    )
    # What stood before a leading # may just have vanished, so it is taken off last.
    return " ".join(spaced.split()).lstrip("# ") or folded.strip()


def _substitute(character: str) -> str:
    is_dash = unicodedata.category(character) == "Pd"
    return " " if is_dash or character.isspace() or character in "_/" else ""


def tag_type(nsid: str) -> RecordType:
    """A record type whose records put a tag on an eprint: the one in use, and an older one."""
    return RecordType(
        nsid=nsid,
        did_column="tagger_did",
        own_columns=(
            text("eprint_uri", "eprintUri", is_indexed=True),
            text("tag", "tag"),
            computed(
                "normal_form", SqlType.TEXT, _normal_form, "tag", is_indexed=True, is_ordering=True
            ),
            text("node_uri", "nodeUri", is_indexed=True),
            text("node_slug", "nodeSlug"),
            text("node_subkind", "nodeSubkind"),
        ),
        marks=(mark("tag", "eprintUri", text="tag"),),
        feeds_search=True,
    )


def _normal_form(value: Value, _: RecordContext) -> SqlValue:
    return normal_tag(str(value.get("tag", "")))
