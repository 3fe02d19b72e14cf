"""The tokenizers of BERT's kin: WordPiece as the original BERT has it, and SentencePiece.

Hugging Face's tokenizers differ from the original where texts are unusual: they drop characters of private use, lower a
final sigma otherwise, take `[SEP]` in a text for the mark, know no word of more than 100 characters and refuse lone
surrogates. Scores are of the original, so the tokens are, too.
"""

import functools
import pathlib
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Protocol

import sentencepiece

from cd_jax.errors import RequestError
from cd_jax.rundir import files

CLS, SEP, UNKNOWN = "[CLS]", "[SEP]", "[UNK]"
_MEND = "copy it again, whole"
_LONGEST = 200  # characters of a word; a longer one is unknown
_CACHED = 2**16  # words
_CJK = re.compile(
    "([\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    "\U0002b820-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f])"
)


class Tokenizer(Protocol):
    """Turns texts into ids.

    Attributes:
      cls: the id of `[CLS]`.
      sep: the id of `[SEP]`.
      size: one more than the largest id.
    """

    cls: int
    sep: int
    size: int

    def ids(self, text: str) -> list[int]:
        """The ids of a text, without `[CLS]` and `[SEP]`."""
        ...


class _Cleaned(dict):
    """Of every character what `str.translate` makes of it: nothing of control characters, blanks of all that are."""

    def __missing__(self, point: int) -> str:
        char = chr(point)
        category = unicodedata.category(char)
        blank = char in " \t\n\r" or category == "Zs"
        dropped = point in (0, 0xFFFD) or category in ("Cc", "Cf")
        self[point] = " " if blank else "" if dropped else char
        return self[point]


class _Split(dict):
    """Of every character what `str.translate` makes of it: punctuation stands alone."""

    def __missing__(self, point: int) -> str:
        char = chr(point)
        ascii_symbol = 33 <= point <= 126 and not char.isalnum()
        self[point] = f" {char} " if ascii_symbol or unicodedata.category(char).startswith("P") else char
        return self[point]


_CLEANED, _SPLIT = _Cleaned(), _Split()


def words(text: str, lower: bool) -> list[str]:
    """The original BERT's `BasicTokenizer`: words and punctuation marks.

    Args:
      text: any.
      lower: lower case, without accents.
    """
    found = _CJK.sub(r" \1 ", text.translate(_CLEANED)).split()
    if lower:
        found = [_without_accents(word.lower()) for word in found]
    return " ".join(found).translate(_SPLIT).split()


def _without_accents(word: str) -> str:
    if word.isascii():
        return word
    return "".join(char for char in unicodedata.normalize("NFD", word) if unicodedata.category(char) != "Mn")


class WordPiece:
    """Words, each cut into the longest pieces that the vocabulary has, from its start on.

    Attributes:
      cls: the id of `[CLS]`.
      sep: the id of `[SEP]`.
      size: one more than the largest id.
    """

    def __init__(self, vocabulary: Mapping[str, int], lower: bool):
        """Makes the tokenizer.

        Args:
          vocabulary: ids by piece; pieces that do not begin a word begin with `##`.
          lower: of `words`.
        """
        self._vocabulary, self._lower = vocabulary, lower
        self.cls, self.sep, self._unknown = (vocabulary[name] for name in (CLS, SEP, UNKNOWN))
        self.size = max(vocabulary.values()) + 1
        self._pieces = functools.lru_cache(_CACHED)(self._cut)

    def ids(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        return [piece for word in words(text, self._lower) for piece in self._pieces(word)]

    def _cut(self, word: str) -> tuple[int, ...]:
        if len(word) > _LONGEST:
            return (self._unknown,)
        pieces: list[int] = []
        start, prefix = 0, ""
        while start < len(word):
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self._vocabulary), None)
            if end is None:
                return (self._unknown,)
            pieces.append(self._vocabulary[prefix + word[start:end]])
            start, prefix = end, "##"
        return tuple(pieces)


class SentencePiece:
    """A SentencePiece model that has pieces `[CLS]` and `[SEP]`.

    Attributes:
      cls: the id of `[CLS]`.
      sep: the id of `[SEP]`.
      size: one more than the largest id.
    """

    def __init__(self, processor: Any):
        """Takes a `sentencepiece.SentencePieceProcessor`."""
        self._processor = processor
        self.cls, self.sep = processor.piece_to_id(CLS), processor.piece_to_id(SEP)
        self.size = processor.get_piece_size()

    def ids(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        # By the pieces' names, as the original does. A lone surrogate has no UTF-8.
        pieces = self._processor.encode(text.encode("utf-8", "replace").decode(), out_type=str)
        return [self._processor.piece_to_id(piece) for piece in pieces]


def read_wordpiece(path: pathlib.Path, lower: bool) -> WordPiece:
    """The tokenizer of a `vocab.txt`.

    Args:
      path: of the file, a piece a line.
      lower: whether texts are lowered, without accents.

    Raises:
      RequestError: there is no such file, or it is none.
    """
    vocabulary: dict[str, int] = {}
    text = files.read_text(path, "it is the vocabulary: copy it, too")
    for line in text.removesuffix("\n").split("\n"):
        vocabulary.setdefault(line.strip(), len(vocabulary))
    for name in (CLS, SEP, UNKNOWN):
        if name not in vocabulary:
            raise RequestError(f"{path}: lacks the piece {name}; {_MEND}")
    return WordPiece(vocabulary, lower)


def read_sentencepiece(path: pathlib.Path) -> SentencePiece:
    """The tokenizer of a SentencePiece model.

    Args:
      path: of the file.

    Raises:
      RequestError: there is no such file, or it is none, or has no `[CLS]` and `[SEP]`.
    """
    content = files.read_bytes(path, "it is the vocabulary: copy it, too")
    try:
        # Without content there would be no error before the first use.
        processor = sentencepiece.SentencePieceProcessor(model_proto=content or b"-")
    except RuntimeError as error:
        raise RequestError(f"{path}: not a SentencePiece model; {_MEND}") from error
    for name in (CLS, SEP):
        if processor.id_to_piece(processor.piece_to_id(name)) != name:
            raise RequestError(f"{path}: lacks the piece {name}, which BLEURT's models have; {_MEND}")
    return SentencePiece(processor)
