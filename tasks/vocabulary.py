"""The vocabulary: a SentencePiece model, shipped for the embedded worlds or trained on the data at hand."""

import io
import itertools
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import sentencepiece
import seqio
import tensorflow as tf
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from cd_jax.errors import RequestError
from cd_jax.feed import formats
from cd_jax.rundir import files
from cd_jax.tasks.babi.worlds import WORLDS, generate
from cd_jax.tasks.com2sense import pairs

# `train(embedded_texts(), 4000)`; unknown words fall back to bytes. `make vocabulary` writes it.
EMBEDDED = pathlib.Path(__file__).with_name("vocabulary.model")
# How SentencePiece spells a space.
SPACE = "▁"


def train(texts: Iterable[str], size: int) -> bytes:
    """Trains a byte-pair SentencePiece model that falls back to bytes, with T5's special ids (pad 0, eos 1, unk 2).

    Args:
      texts: sentences; the same texts in the same order give the same model.
      size: pieces at most; a small corpus gives fewer.

    Returns:
      The serialised model.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=size,
        hard_vocab_limit=False,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


class Vocabulary(seqio.SentencePieceVocabulary):
    """A SentencePiece model whose added tokens, such as T5's sentinels, are words of their own wherever they stand.

    So Hugging Face's tokenizers have it: `(<extra_id_0>)` is three words.
    """

    def __init__(self, path: str, added: list[str]):
        """See `load`; `added` are the tokens as they stand in texts."""
        super().__init__(path, extra_ids=0)
        self._added = f"({'|'.join(map(re.escape, sorted(added, key=len, reverse=True)))})"

    def _encode(self, s):
        return super()._encode(re.sub(self._added, r" \1 ", s))

    def _encode_tf(self, s):
        return super()._encode_tf(tf.strings.regex_replace(s, self._added, r" \1 "))


def load(path: str | pathlib.Path = EMBEDDED) -> seqio.SentencePieceVocabulary:
    """The vocabulary in a SentencePiece file, with no extra ids but those that are in it.

    Raises:
      RequestError: there is no such file, or it is damaged.
    """
    model = parse(files.read_bytes(path, "a SentencePiece model belongs there, e.g. that of `cd_jax distill`"), path)
    tokens = added(model)
    return Vocabulary(str(path), tokens) if tokens else seqio.SentencePieceVocabulary(str(path), extra_ids=0)


def parse(content: bytes, where: object) -> Any:
    """The message of a SentencePiece model, which SentencePiece takes.

    Raises:
      RequestError: it is none; names `where`.
    """
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        # SeqIO loads it later, where its first use is, and without a word of the file.
        sentencepiece.SentencePieceProcessor(model_proto=content or b"-")
        model.ParseFromString(content)
    except (RuntimeError, DecodeError) as error:
        raise RequestError(
            f"{where}: not a SentencePiece model; copy it there again, or delete what `cd_jax distill` wrote "
            "and distill again"
        ) from error
    return model


def added(model: Any) -> list[str]:
    """Tokens that were added to a SentencePiece model after its pieces, as they stand in texts, in their order.

    Args:
      model: of `parse`. There each is a symbol of its own, with SentencePiece's mark of a word's beginning.
    """
    pieces = reversed(model.pieces)
    symbols = itertools.takewhile(lambda p: p.type == p.USER_DEFINED and p.piece[:1] == SPACE and p.piece[1:], pieces)
    return [piece.piece[1:] for piece in symbols][::-1]


def padded_size(vocabulary: seqio.Vocabulary) -> int:
    """Rows of the embedding: the vocabulary's size up to the next multiple of 128, so that a mesh divides it."""
    return -(-vocabulary.vocab_size // 128) * 128


def embedded_texts() -> list[str]:
    """What the embedded worlds and pairs say, and the words of the oracle teacher around it."""
    stories = [row for number in WORLDS for row in generate.read(number, "train", f"babi_qa{number}", 300)]
    rows = stories + pairs.read("train", "com2sense")
    always = [
        "1: 2: 3: 4: 5: 6: 7: 8: 9: answer: yes no",
        "because we know that the story says: it would not make sense to say: unlike nobody one would rather say:",
    ]
    return [*always, *(f"{row.prompt} {formats.answer(row.answer)}" for row in rows)]
