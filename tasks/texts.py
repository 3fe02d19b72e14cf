"""Texts of data sets: the characters that only a disk, a copy or a conversion puts there, and how errors show them."""

import re
import reprlib
from typing import Any

# Of the user's own texts: control characters but for whitespace, and halves of a character, which UTF-8 cannot hold.
_NO_TEXT = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")
# Of a sentence besides: what ends a line, further controls, a byte order mark, and what stands for a lost character.
_NO_SENTENCE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffd\ud800-\udfff]")
_SHORT = reprlib.Repr()
_SHORT.maxstring = 60


def shown(value: Any) -> str:
    """A value of JSON for an error message: on one line, and not too long."""
    return _SHORT.repr(value)[:100]


def odd_in_text(text: str) -> str:
    """The first character that no text has, as `U+0000`; empty where there is none."""
    return _code(_NO_TEXT.search(text))


def odd_in_sentence(text: str) -> str:
    """The same of a text of one line, which has fewer; tabs and newlines are left to its reader."""
    return _code(_NO_SENTENCE.search(text))


def _code(found: re.Match[str] | None) -> str:
    return f"U+{ord(found[0]):04X}" if found else ""
