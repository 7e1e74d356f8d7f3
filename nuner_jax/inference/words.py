"""Words of untokenised text: the rule of the bracket format, with what writing systems beyond ASCII need."""

import re
import sys
import unicodedata
from functools import cache

from nuner_jax.evaluate.readers import words_of as plain_words_of

CJK = "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
JOINER = "\u200d"


def words_of(text: str) -> list[tuple[int, int]]:
    """Character spans of words. Combining marks and joined emoji stay with what they belong to; Han and kana, which know no blanks,
    are taken character by character, so that an entity may begin and end anywhere."""
    if text.isascii():
        return plain_words_of(text)
    return [match.span() for match in pattern().finditer(text)]


@cache
def pattern() -> re.Pattern[str]:
    """The rule as an expression."""
    mark = f"[{marks()}]*"
    letters = rf"(?:(?![{CJK}])\w{mark})+"
    return re.compile(rf"[{CJK}]{mark}|{letters}(?:[-_'’]{letters})*|\S{mark}(?:{JOINER}\S{mark})*")


def marks() -> str:
    """The combining marks of this Python's Unicode, as the inside of a character class."""
    codes = [code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M"]
    parts, start = [], codes[0]
    for before, code in zip(codes, [*codes[1:], -1], strict=True):
        if code != before + 1:
            parts.append(chr(start) + (f"-{chr(before)}" if before > start else ""))
            start = code
    return "".join(parts)
