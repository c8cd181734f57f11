"""How many characters a reader sees in a text: user-perceived characters, not code points.

Owns an approximation of the extended grapheme clusters of UAX #29 made from the character
categories that Python ships: combining marks, joiners, variation selectors, emoji modifiers and
tags extend what precedes them; a zero width joiner glues pictographs; regional indicators pair
up; Hangul jamo build syllables; CR LF is one. It is never above the number of code points, which
is what makes the cheap test in front of it right.
"""

from __future__ import annotations

import unicodedata

_CR, _LF = 0x0D, 0x0A
_JOINERS = (0x200C, 0x200D)
_ZERO_WIDTH_JOINER = 0x200D
_FIRST_COMBINING = 0x300  # nothing below it extends a character
_FIRST_PICTOGRAPH = 0x2190
_EMOJI_MODIFIERS = range(0x1F3FB, 0x1F400)
_EMOJI_TAGS = range(0xE0020, 0xE0080)
_REGIONAL_INDICATORS = range(0x1F1E6, 0x1F200)
_EXTENDING_CATEGORIES = frozenset({"Mn", "Me", "Mc"})

_HANGUL_LEADING = range(0x1100, 0x1160)
_HANGUL_VOWELS = range(0x1160, 0x11A8)
_HANGUL_TRAILING = range(0x11A8, 0x1200)
_HANGUL_SYLLABLES = range(0xAC00, 0xD7A4)
_HANGUL_OPEN_SYLLABLES = range(0xAC00, 0xD7A4, 28)  # those without a trailing consonant


def count_graphemes(text: str) -> int:
    """Number of user-perceived characters of `text`."""
    if text.isascii():
        return len(text) - text.count("\r\n")
    count = 0
    previous = -1  # code point before; none at the start
    indicators = 0  # regional indicators in a row before this character
    for character in text:
        code = ord(character)
        if not _is_joined(previous, code, indicators):
            count += 1
        indicators = indicators + 1 if code in _REGIONAL_INDICATORS else 0
        previous = code
    return count


def _is_joined(previous: int, code: int, indicators: int) -> bool:
    """Whether a reader sees no boundary between two code points."""
    if previous in (-1, _CR, _LF):
        return previous == _CR and code == _LF
    if _is_extending(code):
        return True
    if previous == _ZERO_WIDTH_JOINER:
        return code >= _FIRST_PICTOGRAPH
    if code in _REGIONAL_INDICATORS:
        return indicators % 2 == 1
    return _is_syllable(previous, code)


def _is_extending(code: int) -> bool:
    if code < _FIRST_COMBINING:
        return False
    if code in _JOINERS or code in _EMOJI_MODIFIERS or code in _EMOJI_TAGS:
        return True
    return unicodedata.category(chr(code)) in _EXTENDING_CATEGORIES


def _is_syllable(previous: int, code: int) -> bool:
    """Whether Korean letters or syllables belong together."""
    if previous in _HANGUL_LEADING:
        return code in _HANGUL_LEADING or code in _HANGUL_VOWELS or code in _HANGUL_SYLLABLES
    if previous in _HANGUL_VOWELS or previous in _HANGUL_OPEN_SYLLABLES:
        return code in _HANGUL_VOWELS or code in _HANGUL_TRAILING
    return code in _HANGUL_TRAILING and (
        previous in _HANGUL_TRAILING or previous in _HANGUL_SYLLABLES
    )
