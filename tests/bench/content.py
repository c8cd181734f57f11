"""Records as people write them: shapes, sizes and words.

Sizes follow what was measured of real traffic: about 1.5 kB for a record in scope (submissions
are three times that, tags a fifth), 200 to 500 bytes for posts, likes and follows. Words follow
a Zipf curve over a vocabulary of a few thousand, so that a full-text index has both very long
and very short lists.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from itertools import accumulate

from tests.devnet.cbor import RAW, Link, Value, cid_of

SUBMISSION = "pub.chive.eprint.submission"
VOCABULARY_WORDS = 4000
SYLLABLES = [
    *(consonant + vowel for consonant in "bcdfglmnprst" for vowel in "aeio"),
    *("tri", "stra", "plex", "graph", "log", "met", "phy", "syn", "ver", "tion", "ic", "al"),
]
SUBJECTS = ("phonology", "syntax", "genomics", "optics", "topology", "ecology", "seismology")
LICENCES = ("CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0", "MIT", "Apache-2.0")
CONTRIBUTIONS = ("methodological", "empirical", "theoretical", "replication", "data")


class Writer:
    """Makes records for one world; everything follows from its `random.Random`."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._words = sorted({self._word() for _ in range(VOCABULARY_WORDS)})
        rng.shuffle(self._words)
        self._weights = list(accumulate(1 / (rank + 8) for rank in range(len(self._words))))
        self._eprints: list[str] = []  # URIs that others may refer to
        self._chive: list[tuple[str, Callable[[str, str], Value]]] = [
            (SUBMISSION, self._submission),
            ("pub.chive.review.comment", self._comment),
            ("pub.chive.eprint.userTag", self._tag),
            ("pub.chive.eprint.citation", self._citation),
            ("pub.chive.review.endorsement", self._endorsement),
            ("pub.chive.eprint.version", self._version),
        ]
        self._foreign: list[tuple[str, Callable[[str, str], Value]]] = [
            ("app.bsky.feed.post", self._post),
            ("app.bsky.feed.like", self._like),
            ("app.bsky.feed.repost", self._like),
            ("app.bsky.graph.follow", self._follow),
        ]

    def pick(self, *, in_scope: bool) -> str:
        """The collection of the next record."""
        if in_scope:
            return self._rng.choices(self._chive, (34, 24, 14, 14, 9, 5))[0][0]
        return self._rng.choices(self._foreign, (45, 35, 10, 10))[0][0]

    def write(self, did: str, collection: str, rkey: str, at: str) -> Value:
        """A record of `collection`, created at the datetime `at`."""
        make = dict(self._chive + self._foreign)[collection]
        if collection == SUBMISSION and len(self._eprints) < 5000:
            self._eprints.append(f"at://{did}/{collection}/{rkey}")
        return make(did, at)

    def _word(self) -> str:
        return "".join(self._rng.choices(SYLLABLES, k=self._rng.randint(1, 4)))

    def text(self, words: int) -> str:
        """So many words in sentences."""
        chosen = self._rng.choices(self._words, cum_weights=self._weights, k=words)
        for at in range(0, words, 14):
            chosen[at] = chosen[at].capitalize()
            if at:
                chosen[at - 1] += "."
        return " ".join(chosen)

    def _rich(self, words: int) -> list[Value]:
        return [
            {
                "$type": "pub.chive.richtext.defs#textItem",
                "type": "text",
                "content": self.text(words),
            }
        ]

    def _eprint(self, did: str) -> str:
        if not self._eprints:
            return f"at://{did}/{SUBMISSION}/3l7aaaaaaaa2a"
        return self._rng.choice(self._eprints)

    def _submission(self, did: str, at: str) -> Value:
        rng = self._rng
        words = rng.randint(90, 260)
        abstract = self._rich(words)
        authors: list[Value] = [
            {
                "name": self.text(2).title(),
                "order": order,
                "orcid": f"0000-0002-{rng.randint(1000, 9999)}-{rng.randint(1000, 9999)}",
                "affiliations": [{"name": f"University of {self.text(1).title()}"}],
                "isCorrespondingAuthor": order == 1,
                **({"did": did} if order == 1 else {}),
            }
            for order in range(1, rng.randint(2, 6))
        ]
        keywords: list[Value] = [self.text(rng.randint(1, 2)) for _ in range(rng.randint(3, 7))]
        digest = hashlib.sha256(rng.randbytes(16)).digest()
        return {
            "$type": SUBMISSION,
            "title": self.text(rng.randint(6, 14)),
            "abstract": abstract,
            "abstractPlainText": self.text(words),
            "document": {
                "$type": "blob",
                "ref": Link(cid_of(digest, RAW)),
                "mimeType": "application/pdf",
                "size": rng.randint(200_000, 8_000_000),
            },
            "documentFormatSlug": "pdf",
            "authors": authors,
            "submittedBy": did,
            "keywords": keywords,
            "versionNumber": 1,
            "licenseSlug": rng.choice(LICENCES),
            "publicationStatusSlug": "preprint",
            "paperTypeSlug": "original-research",
            "createdAt": at,
            "schemaRevision": 3,
        }

    def _comment(self, did: str, at: str) -> Value:
        return {
            "$type": "pub.chive.review.comment",
            "eprintUri": self._eprint(did),
            "body": self._rich(self._rng.randint(20, 150)),
            "motivationFallback": "commenting",
            "createdAt": at,
            "schemaRevision": 1,
        }

    def _tag(self, did: str, at: str) -> Value:
        return {
            "$type": "pub.chive.eprint.userTag",
            "eprintUri": self._eprint(did),
            "tag": self._rng.choice(SUBJECTS),
            "createdAt": at,
            "schemaRevision": 1,
        }

    def _citation(self, did: str, at: str) -> Value:
        rng = self._rng
        return {
            "$type": "pub.chive.eprint.citation",
            "eprintUri": self._eprint(did),
            "citedWork": {
                "title": self.text(rng.randint(6, 14)),
                "doi": f"10.{rng.randint(1000, 9999)}/{self._word()}.{rng.randint(1, 99999)}",
                "authors": [self.text(2).title() for _ in range(rng.randint(1, 5))],
                "year": rng.randint(1960, 2026),
                "venue": self.text(4).title(),
            },
            "citationType": "cites",
            "context": self.text(rng.randint(12, 40)),
            "createdAt": at,
            "schemaRevision": 1,
        }

    def _endorsement(self, did: str, at: str) -> Value:
        rng = self._rng
        return {
            "$type": "pub.chive.review.endorsement",
            "eprintUri": self._eprint(did),
            "contributions": list(rng.sample(CONTRIBUTIONS, rng.randint(1, 3))),
            "comment": self.text(rng.randint(10, 60)),
            "createdAt": at,
            "schemaRevision": 1,
        }

    def _version(self, did: str, at: str) -> Value:
        return {
            "$type": "pub.chive.eprint.version",
            "eprintUri": self._eprint(did),
            "versionNumber": self._rng.randint(2, 6),
            "changes": self.text(self._rng.randint(20, 80)),
            "createdAt": at,
            "schemaRevision": 1,
        }

    def _post(self, did: str, at: str) -> Value:
        return {
            "$type": "app.bsky.feed.post",
            "text": self.text(self._rng.randint(3, 45)),
            "langs": ["en"],
            "createdAt": at,
        }

    def _like(self, did: str, at: str) -> Value:
        digest = self._rng.randbytes(32)
        return {
            "$type": "app.bsky.feed.like",
            "subject": {
                "cid": Link(b"\x01\x71\x12\x20" + digest),
                "uri": f"at://{self._stranger()}/app.bsky.feed.post/3l{self._word():a<11.11}",
            },
            "createdAt": at,
        }

    def _follow(self, did: str, at: str) -> Value:
        return {"$type": "app.bsky.graph.follow", "subject": self._stranger(), "createdAt": at}

    def _stranger(self) -> str:
        letters = self._rng.choices("abcdefghijklmnopqrstuvwxyz234567", k=24)
        return "did:plc:" + "".join(letters)
