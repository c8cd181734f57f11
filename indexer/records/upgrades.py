"""Older revisions of records -> the current one, before validation.

Owns the steps for eprint submissions (1 -> 2 -> 3) and actor profiles (1 -> 2). A step rewrites
only what has the older shape, because writers have mixed them: a record without `schemaRevision`
counts as revision 1 whatever it looks like. The signed value is never changed, and a step never
makes a valid value invalid: what would not fit today's limits is left out.

Legacy submissions are also given what Chive has always filled in for them: the repo as submitter,
the place in the list as author order, CC-BY-4.0 as licence. Current ones are not: there the
lexicon decides.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping

from indexer.records.projection import RecordContext, Upgrade, Value

FIELD_NODE_COLLECTION = "pub.chive.graph.node"
"""Where licences, fields and other vocabulary live in the governance repo."""

PLAIN_TEXT_BYTES_MAX = 10_000
TITLE_BYTES_MAX = 500
TITLE_ITEMS_MAX = 50
AFFILIATION_NAME_BYTES_MAX = 300
"""Limits of the lexicons on `abstractPlainText`, `title`, `titleRich`, an affiliation's `name`."""

_FALLBACK_LICENSE = "CC-BY-4.0"
_LICENSES = ("CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0", "MIT", "Apache-2.0")
_LICENSE_NODES = {
    slug.lower(): (slug, str(uuid.uuid5(uuid.NAMESPACE_DNS, f"node:license:{slug.lower()}")))
    for slug in _LICENSES
}
"""Lower-case slug -> (slug, id of its node): the governance graph names its nodes by this rule."""

_LATEX = re.compile(r"\$\$?[^$]+\$|\\[A-Za-z]+|[\^_]\{[^}]*\}")
_MATH = re.compile(r"\$\$(?P<display>[^$]+)\$\$|\$(?P<inline>[^$]+)\$")


def _upgrade_submission_1(value: Value, context: RecordContext) -> dict[str, object]:
    """Rich text abstract and title, licence by slug and node, and what was filled in always."""
    upgraded = dict(value)
    abstract = value.get("abstract")
    if isinstance(abstract, str):
        upgraded["abstract"] = [_text_item(abstract)]
        if "abstractPlainText" not in value and _fits(abstract, PLAIN_TEXT_BYTES_MAX):
            upgraded["abstractPlainText"] = abstract
    title = value.get("title")
    if isinstance(title, str) and "titleRich" not in value and _has_formulas(title):
        items = _split_title(title)
        if len(items) <= TITLE_ITEMS_MAX:
            upgraded["titleRich"] = items
    _upgrade_license(upgraded, context)
    return upgraded


def _upgrade_submission_2(value: Value, context: RecordContext) -> dict[str, object]:
    """Departments become children of their institution."""
    upgraded = dict(value)
    upgraded.setdefault("submittedBy", context.did)
    upgraded.setdefault("licenseSlug", _FALLBACK_LICENSE)
    if "document" in value:
        upgraded["document"] = _upgrade_blob(value["document"])
    materials = value.get("supplementaryMaterials")
    if isinstance(materials, list):
        upgraded["supplementaryMaterials"] = [
            {**each, "blob": _upgrade_blob(each["blob"])}
            if isinstance(each, Mapping) and "blob" in each
            else each
            for each in materials
        ]
    authors = value.get("authors")
    if isinstance(authors, list):
        upgraded["authors"] = [
            _upgrade_author(author, position) if isinstance(author, Mapping) else author
            for position, author in enumerate(authors, start=1)
        ]
    return upgraded


def _upgrade_profile_1(value: Value, _: RecordContext) -> dict[str, object]:
    """Departments become children of their institution."""
    upgraded = dict(value)
    for name in ("affiliations", "previousAffiliations"):
        if isinstance(value.get(name), list):
            upgraded[name] = _upgrade_affiliations(value[name])
    return upgraded


def _text_item(content: str) -> dict[str, object]:
    return {"$type": "pub.chive.richtext.defs#textItem", "type": "text", "content": content}


def _latex_item(content: str, *, is_display: bool) -> dict[str, object]:
    return {
        "$type": "pub.chive.richtext.defs#latexItem",
        "type": "latex",
        "content": content,
        "displayMode": is_display,
    }


def _has_formulas(title: str) -> bool:
    """Whether a title that may be valid holds any: nothing has been validated yet."""
    return _fits(title, TITLE_BYTES_MAX) and _LATEX.search(title) is not None


def _split_title(title: str) -> list[dict[str, object]]:
    """`"On $x$"` -> text `"On "`, formula `"x"`; bare commands stay in the text around them."""
    items: list[dict[str, object]] = []
    end = 0
    for found in _MATH.finditer(title):
        if found.start() > end:
            items.append(_text_item(title[end : found.start()]))
        display = found["display"]
        items.append(_latex_item(display or found["inline"], is_display=display is not None))
        end = found.end()
    if end < len(title) or not items:
        items.append(_text_item(title[end:]))
    return items


def _upgrade_license(upgraded: dict[str, object], context: RecordContext) -> None:
    former = upgraded.pop("license", None)
    slug = upgraded.setdefault("licenseSlug", former or _FALLBACK_LICENSE)
    known = _LICENSE_NODES.get(slug.lower()) if isinstance(slug, str) else None
    if known is not None:
        upgraded["licenseSlug"], node = known
        upgraded.setdefault(
            "licenseUri", f"at://{context.governance_did}/{FIELD_NODE_COLLECTION}/{node}"
        )


def _upgrade_blob(blob: object) -> object:
    """A reference written as bare text becomes a link, and what has one a blob; the rest stays."""
    if not isinstance(blob, Mapping) or "ref" not in blob:
        return blob
    ref = blob["ref"]
    return {"$type": "blob", **blob, "ref": {"$link": ref} if isinstance(ref, str) else ref}


def _upgrade_author(author: Value, position: int) -> dict[str, object]:
    upgraded = dict(author)
    upgraded.setdefault("order", position)
    if isinstance(author.get("affiliations"), list):
        upgraded["affiliations"] = _upgrade_affiliations(author["affiliations"])
    return upgraded


def _upgrade_affiliations(affiliations: object) -> list[object]:
    return [
        _upgrade_affiliation(item) if isinstance(item, Mapping) else item
        for item in (affiliations if isinstance(affiliations, list) else [])
    ]


def _upgrade_affiliation(affiliation: Value) -> dict[str, object]:
    upgraded = dict(affiliation)
    department = upgraded.pop("department", None)
    is_name = isinstance(department, str) and _fits(department, AFFILIATION_NAME_BYTES_MAX)
    if is_name and department and "children" not in affiliation:
        upgraded["children"] = [{"name": department}]
    return upgraded


def _fits(text: str, bytes_max: int) -> bool:
    return len(text.encode()) <= bytes_max


SUBMISSION_UPGRADES: Mapping[int, Upgrade] = {1: _upgrade_submission_1, 2: _upgrade_submission_2}
PROFILE_UPGRADES: Mapping[int, Upgrade] = {1: _upgrade_profile_1}
