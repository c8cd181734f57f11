"""Words, names and identifiers for seeded records.

Owns text that is varied enough for a full-text index: accents, other scripts, apostrophes,
hyphens.
"""

from __future__ import annotations

from random import Random

from tests.devnet.clock import tid, time_text


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split("|")]


TOPICS = _listed(
    "island constraints|vowel harmony|scope ambiguity|dark matter halos|protein folding|"
    "graph neural networks|Bayesian inference|ergative alignment|plasma turbulence|"
    "causal discovery|CRISPR screens|monetary policy|Große Vereinigung|声調言語|tonogenesis|"
    "reading comprehension|federated learning|coral bleaching|sparse attention|quantum error codes"
)
TAGS = _listed(
    "syntax|phonology|nlp|open-data|reproducibility|physics|genomics|to-read|methods|Tonübergang"
)
_FRAMES = _listed(
    "A computational account of {}|On {} and its limits|{} revisited|Evidence against {}|"
    "Learning {} from few examples|Towards a theory of {}|{}: a replication|What {} tells us"
)
_WORDS = _listed(
    "the|of|and|in|we|show|that|results|model|data|analysis|evidence|from|two|experiments|suggests|"
    "however|previous|work|method|across|languages|significantly|under|this|assumption|therefore|"
    "novel|approach|robust|effects|participants|corpus|theory|predicts|measured"
)
_GIVEN = _listed("Ada|Björn|Chiamaka|Dmitri|Eun-ji|Fatima|Guðrún|Hiroshi|Inês|José|Khadija|Léa")
_FAMILY = _listed("Okafor|Åström|García|Müller|Nakamura|O'Neill|Petrov|Silva|Tanaka|Weiß|Zhang")
_DID_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_EPOCH_S = 1_735_689_600  # 2025: everything in records happened after it


def text(rng: Random, words: int) -> str:
    """A sentence."""
    return " ".join(rng.choice(_WORDS) for _ in range(words)).capitalize() + "."


def title(rng: Random) -> str:
    """Title of a paper."""
    return rng.choice(_FRAMES).format(rng.choice(TOPICS))


def name(rng: Random) -> str:
    """A person."""
    return f"{rng.choice(_GIVEN)} {rng.choice(_FAMILY)}"


def past_time(rng: Random) -> str:
    """A datetime within about a year and a half."""
    return time_text(_EPOCH_S + rng.randrange(50_000_000_000) / 1000)


def any_did(rng: Random) -> str:
    """A DID that no directory knows."""
    return "did:plc:" + "".join(rng.choice(_DID_ALPHABET) for _ in range(24))


def any_uri(rng: Random, collection: str, did: str | None = None) -> str:
    """The AT-URI of a record that need not exist."""
    rkey = tid(_EPOCH_S * 1_000_000 + rng.getrandbits(45))
    return f"at://{did or any_did(rng)}/{collection}/{rkey}"
