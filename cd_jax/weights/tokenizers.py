"""Hugging Face's tokenizer files, made from a SentencePiece model, so that both give the same ids.

The whole tokenizer is written out (`tokenizer.json`), because transformers would build a T5 tokenizer of its own, a
unigram model without byte fallback. What SentencePiece does is done in its order: its map of characters, spaces trimmed
and merged, `▁` before the text and for every space; then the model sees the text in one piece.

Three differences are of Hugging Face's library: its map of characters works on whole graphemes, so that a combining
mark after a space or an emoji can get lost; where two ways to split a word have the same unigram score it may take the
other; and what follows a symbol that the vocabulary's maker defined is taken for a text of its own. How they come in:
`vocabularies`.
"""

import base64
import json
import pathlib
from typing import Any, TypeAlias

from etils import epath
from sentencepiece import sentencepiece_model_pb2

from cd_jax.errors import RequestError
from cd_jax.rundir import files
from cd_jax.tasks import vocabulary

UNIGRAM, BYTE_PAIR = 1, 2
# Protobuf's classes are made at import, where no type checker sees them.
_proto: Any = sentencepiece_model_pb2
Model: TypeAlias = Any
ModelProto = _proto.ModelProto
Piece = _proto.ModelProto.SentencePiece


def read(path: files.Path) -> Model:
    """A SentencePiece model that both the solver and Hugging Face's tokenizers can use.

    Raises:
      RequestError: there is none, or it is of another kind, or its special ids are not T5's.
    """
    return checked(vocabulary.parse(files.read_bytes(path, "a SentencePiece model belongs there"), path), path)


def checked(model: Model, where: object) -> Model:
    """The model; RequestError, which names `where`, if it is of another kind, or its special ids are not T5's."""
    if [piece.type for piece in model.pieces[:3]] != [Piece.CONTROL, Piece.CONTROL, Piece.UNKNOWN]:
        raise RequestError(f"{where}: its pieces 0, 1 and 2 are not padding, end and unknown; T5's are")
    if model.trainer_spec.model_type not in (UNIGRAM, BYTE_PAIR) or model.trainer_spec.treat_whitespace_as_suffix:
        raise RequestError(f"{where}: is neither a unigram nor a byte-pair model with spaces before the words")
    return model


def is_unigram(model: Model) -> bool:
    """Whether it is one; the others are of byte pairs."""
    return model.trainer_spec.model_type == UNIGRAM


def write(directory: pathlib.Path, path: files.Path) -> None:
    """Writes `spiece.model`, `tokenizer.json` and `tokenizer_config.json`.

    Args:
      directory: where to.
      path: a SentencePiece model. The tokens that were added to it (`vocabulary.added`) are no part of `spiece.model`,
        as in Hugging Face's folders.

    Raises:
      RequestError: of `read`.
    """
    model, content = read(path), epath.Path(path).read_bytes()
    added = vocabulary.added(model)
    if added:
        del model.pieces[-len(added) :]
        content = model.SerializeToString(deterministic=True)
    settings = {
        # Loads tokenizer.json as it is; T5's class would make its own of it.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **{f"{name}_token": model.pieces[i].piece for i, name in enumerate(("pad", "eos", "unk"))},
        "additional_special_tokens": list(filter(_is_sentinel, added)),
    }
    files.write_bytes(directory / "spiece.model", content)
    for name, written in (("tokenizer.json", _tokenizer(model, added)), ("tokenizer_config.json", settings)):
        files.write_text(directory / name, json.dumps(written, ensure_ascii=False, indent=1) + "\n")


def _tokenizer(model: Model, added: list[str]) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(model, added),
        "normalizer": _normalizer(model.normalizer_spec),
        "pre_tokenizer": None,
        "post_processor": _append_end(model.pieces[1].piece),
        "decoder": _decoder(),
        "model": unigram(model) if is_unigram(model) else byte_pair(model),
    }


def _added_tokens(model: Model, added: list[str]) -> list[dict[str, Any]]:
    """What is cut out of the text before the model sees it: special tokens, and symbols that a user defined."""
    kinds = (Piece.CONTROL, Piece.UNKNOWN, Piece.USER_DEFINED)
    tokens = [(i, p.piece, p.type != Piece.USER_DEFINED) for i, p in enumerate(model.pieces) if p.type in kinds]
    tokens += [(i, token, _is_sentinel(token)) for i, token in enumerate(added, len(model.pieces))]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [{"id": i, "content": token, **plain, "special": special} for i, token, special in tokens]


def _is_sentinel(token: str) -> bool:
    return token.startswith("<extra_id_")


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
        steps.append({"type": "Prepend", "prepend": vocabulary.SPACE})
    return {"type": "Sequence", "normalizers": [*steps, replace(" ", vocabulary.SPACE)]}


def _append_end(end: str) -> dict[str, Any]:
    def text(name: str) -> list[dict[str, Any]]:
        return [{"Sequence": {"id": name, "type_id": 0}}, {"SpecialToken": {"id": end, "type_id": 0}}]

    special = {end: {"id": end, "ids": [1], "tokens": [end]}}
    return {"type": "TemplateProcessing", "single": text("A"), "pair": text("A") + text("B"), "special_tokens": special}


def _decoder() -> dict[str, Any]:
    spaces = {"type": "Replace", "pattern": {"String": vocabulary.SPACE}, "content": " "}
    first = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return {"type": "Sequence", "decoders": [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}, first]}


def unigram(model: Model) -> dict[str, Any]:
    """Hugging Face's description of a unigram model."""
    pieces = [[piece.piece, piece.score] for piece in model.pieces]
    return {"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": model.trainer_spec.byte_fallback}


def byte_pair(model: Model) -> dict[str, Any]:
    """Hugging Face's description of a model of byte pairs."""
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
        "merges": merges(model),
    }


def merges(model: Model) -> list[list[str]]:
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
