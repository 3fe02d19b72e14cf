"""Hugging Face's tokenizer files, made from a SentencePiece model, so that both give the same ids.

The whole tokenizer is written out (`tokenizer.json`), because transformers would build a T5 tokenizer of its own, a
unigram model without byte fallback. What SentencePiece does is done in its order: its map of characters, spaces trimmed
and merged, `▁` before the text and for every space; then the model sees the text in one piece.

Three differences are of Hugging Face's library: its map of characters works on whole graphemes, so that a combining
mark after a space or an emoji can get lost; where two ways to split a word have the same unigram score it may take the
other; and what follows a symbol that the vocabulary's maker defined is taken for a text of its own.
"""

import base64
import json
import pathlib
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from cd_jax.errors import RequestError

# T5's sentinels, which its SentencePiece model does not have: they follow its pieces, <extra_id_0> last.
_SENTINELS = 100
_SPACE = "▁"
_UNIGRAM, _BYTE_PAIR = 1, 2
# Protobuf's classes are made at import, where no type checker sees them.
_proto: Any = sentencepiece_model_pb2
Model = Any
Piece = _proto.ModelProto.SentencePiece


def read(path: pathlib.Path) -> Model:
    """A SentencePiece model that both the solver and Hugging Face's tokenizers can use.

    Raises:
      RequestError: there is none, or it is of another kind, or its special ids are not T5's.
    """
    model = _proto.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
        special = [model.pieces[i].type for i in range(3)]
    except FileNotFoundError as error:
        raise RequestError(f"{path}: no such file; a SentencePiece model belongs there") from error
    except (DecodeError, IndexError) as error:
        raise RequestError(f"{path}: not a SentencePiece model; copy it again, whole") from error
    if special != [Piece.CONTROL, Piece.CONTROL, Piece.UNKNOWN]:
        raise RequestError(f"{path}: its pieces 0, 1 and 2 are not padding, end and unknown; T5's are")
    if model.trainer_spec.model_type not in (_UNIGRAM, _BYTE_PAIR) or model.trainer_spec.treat_whitespace_as_suffix:
        raise RequestError(f"{path}: is neither a unigram nor a byte-pair model with spaces before the words")
    return model


def write(directory: pathlib.Path, vocabulary: pathlib.Path, rows: int) -> None:
    """Writes `spiece.model`, `tokenizer.json` and `tokenizer_config.json`.

    Args:
      directory: where to.
      vocabulary: a SentencePiece model.
      rows: of the embedding; T5's sentinels are added to a unigram model where there is room for them.

    Raises:
      RequestError: of `read`.
    """
    model = read(vocabulary)
    sentinels = _sentinels(model, rows)
    settings = {
        # Loads tokenizer.json as it is; T5's class would make its own of it.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **{f"{name}_token": model.pieces[i].piece for i, name in enumerate(("pad", "eos", "unk"))},
        "additional_special_tokens": sentinels,
    }
    (directory / "spiece.model").write_bytes(vocabulary.read_bytes())
    for name, content in (("tokenizer.json", _tokenizer(model, sentinels)), ("tokenizer_config.json", settings)):
        (directory / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _sentinels(model: Model, rows: int) -> list[str]:
    if model.trainer_spec.model_type != _UNIGRAM or len(model.pieces) + _SENTINELS > rows:
        return []
    return [f"<extra_id_{i}>" for i in reversed(range(_SENTINELS))]


def _tokenizer(model: Model, sentinels: list[str]) -> dict[str, Any]:
    unigram = model.trainer_spec.model_type == _UNIGRAM
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(model, sentinels),
        "normalizer": _normalizer(model.normalizer_spec),
        "pre_tokenizer": None,
        "post_processor": _append_end(model.pieces[1].piece),
        "decoder": _decoder(),
        "model": _unigram(model) if unigram else _byte_pair(model),
    }


def _added_tokens(model: Model, sentinels: list[str]) -> list[dict[str, Any]]:
    """What is cut out of the text before the model sees it: special tokens, and symbols that a user defined."""
    kinds = (Piece.CONTROL, Piece.UNKNOWN, Piece.USER_DEFINED)
    tokens = [(i, p.piece, p.type != Piece.USER_DEFINED) for i, p in enumerate(model.pieces) if p.type in kinds]
    tokens += [(i, token, True) for i, token in enumerate(sentinels, len(model.pieces))]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [{"id": i, "content": token, **plain, "special": special} for i, token, special in tokens]


def _normalizer(spec: Any) -> dict[str, Any]:
    def replace(pattern: str, content: str) -> dict[str, Any]:
        return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}

    steps: list[dict[str, Any]] = []
    if spec.precompiled_charsmap:
        encoded = base64.b64encode(spec.precompiled_charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": encoded})
    if spec.remove_extra_whitespaces:
        steps += [replace(r"\A +| +\z", ""), replace(" {2,}", " ")]
    if spec.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": _SPACE})
    return {"type": "Sequence", "normalizers": [*steps, replace(" ", _SPACE)]}


def _append_end(end: str) -> dict[str, Any]:
    def text(name: str) -> list[dict[str, Any]]:
        return [{"Sequence": {"id": name, "type_id": 0}}, {"SpecialToken": {"id": end, "type_id": 0}}]

    special = {end: {"id": end, "ids": [1], "tokens": [end]}}
    return {"type": "TemplateProcessing", "single": text("A"), "pair": text("A") + text("B"), "special_tokens": special}


def _decoder() -> dict[str, Any]:
    spaces = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    first = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return {"type": "Sequence", "decoders": [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}, first]}


def _unigram(model: Model) -> dict[str, Any]:
    pieces = [[piece.piece, piece.score] for piece in model.pieces]
    return {"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": model.trainer_spec.byte_fallback}


def _byte_pair(model: Model) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": model.pieces[2].piece,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.trainer_spec.byte_fallback,
        "ignore_merges": False,
        "vocab": {piece.piece: i for i, piece in enumerate(model.pieces)},
        "merges": _merges(model),
    }


def _merges(model: Model) -> list[list[str]]:
    """Every pair that makes a piece, the pieces of the highest score first.

    SentencePiece merges any neighbours that make a piece; Hugging Face wants the pairs.
    """
    known = {piece.piece for piece in model.pieces if piece.type == Piece.NORMAL}
    ranked = sorted((p for p in model.pieces if p.type == Piece.NORMAL), key=lambda piece: -piece.score)
    return [
        [piece.piece[:i], piece.piece[i:]]
        for piece in ranked
        for i in range(1, len(piece.piece))
        if piece.piece[:i] in known and piece.piece[i:] in known
    ]
