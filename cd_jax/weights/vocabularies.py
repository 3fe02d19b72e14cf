"""The SentencePiece model of a folder of Hugging Face's, with all tokens that were added to it, under the ids of there.

Its pieces are those of `spiece.model`; or of `tokenizer.json`, which is all that transformers 5 writes: a unigram model
of T5's kind, or what `tokenizers` writes. To them come T5's sentinels, and what `added_tokens.json`,
`tokenizer_config.json` and `tokenizer.json` add. Whatever cannot be told from SentencePiece's own behaviour is refused.
"""

import base64
import binascii
import itertools
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard

from cd_jax.errors import RequestError
from cd_jax.rundir import files
from cd_jax.tasks import vocabulary
from cd_jax.tasks.vocabulary import SPACE
from cd_jax.weights import tokenizers
from cd_jax.weights.tokenizers import Model, Piece

PIECES, TOKENIZER, SETTINGS, ADDED = "spiece.model", "tokenizer.json", "tokenizer_config.json", "added_tokens.json"
_SENTINELS = 100  # of T5, which follow its pieces, <extra_id_0> last
_SPECIAL = (0, 1, 2)
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_MEND = "copy it again, whole"
# What mends a vocabulary that is not there, or that cannot be taken over.
GIVE = "give --vocabulary=FILE, a SentencePiece model, to `cd_jax import`"
_MEND_BOTH = f"copy both again, whole, or {GIVE}"
GIVE_OTHER = "give --vocabulary=FILE, another SentencePiece model, to `cd_jax import`"


def of_folder(folder: pathlib.Path, rows: int) -> bytes:
    """A SentencePiece model that gives the ids of Hugging Face's tokenizer.

    Args:
      folder: of Hugging Face's.
      rows: of the embedding.

    Raises:
      RequestError: there is no vocabulary, a file is damaged, or it is one that SentencePiece cannot be.
    """
    settings = _settings(folder)
    described = files.read_json(folder / TOKENIZER, _MEND) if (folder / TOKENIZER).is_file() else None
    with_sentinels = False
    if (folder / PIECES).is_file():
        model = tokenizers.read(folder / PIECES)
        with_sentinels = _adds_sentinels(folder, settings)
    elif described is not None:
        model = _converted(folder / TOKENIZER, described)
    else:
        raise RequestError(f"{folder}: holds no vocabulary ({PIECES} or {TOKENIZER}); {GIVE}")
    tokens = _agreed(_added_tokens(folder, settings, described))
    if with_sentinels and not any(number >= len(model.pieces) for number in tokens):
        model = _with_sentinels(model, rows)
    _add(model, tokens, PIECES if (folder / PIECES).is_file() else TOKENIZER)
    if not with_sentinels:
        _check_named(model, folder, settings)
    return model.SerializeToString(deterministic=True)


def with_sentinels(path: files.Path, rows: int) -> bytes:
    """A SentencePiece model with T5's sentinels, where it is T5's kind and the embedding has rows for them.

    Args:
      path: of the model.
      rows: of the embedding.

    Raises:
      RequestError: of `tokenizers.read`.
    """
    return _with_sentinels(tokenizers.read(path), rows).SerializeToString(deterministic=True)


# What is added


def _with_sentinels(model: Model, rows: int) -> Model:
    # mT5's model has them.
    has = any("<extra_id_" in piece.piece for piece in model.pieces)
    if tokenizers.is_unigram(model) and not has and len(model.pieces) + _SENTINELS <= rows:
        for number in reversed(range(_SENTINELS)):
            _append(model, f"<extra_id_{number}>")
    return model


def _append(model: Model, token: str) -> None:
    model.pieces.add(piece=SPACE + token, score=0.0, type=Piece.USER_DEFINED)


def _settings(folder: pathlib.Path) -> files.Json:
    settings = files.read_json(folder / SETTINGS, _MEND) if (folder / SETTINGS).is_file() else {}
    if str(settings.get("tokenizer_class")).startswith("ByT5"):
        raise RequestError(f"{folder}: is a ByT5, which reads bytes and has no vocabulary; it cannot be imported")
    return settings


def _adds_sentinels(folder: pathlib.Path, settings: Mapping[str, Any]) -> bool:
    """Whether T5's class adds them to what the files hold."""
    number = settings.get("extra_ids", _SENTINELS)
    if number not in (0, _SENTINELS):
        raise RequestError(f"{folder / SETTINGS}: extra_ids={number!r}; only 0 and {_SENTINELS} can be imported")
    return number > 0 and re.match("M?T5", str(settings.get("tokenizer_class", "T5"))) is not None


class _Added(NamedTuple):
    """A token, and the file that adds it."""

    number: int
    text: str
    file: pathlib.Path

    def __str__(self) -> str:
        return f"{self.file}: the added token {self.text[:40]!r} has the id {self.number}"


def _added_tokens(
    folder: pathlib.Path, settings: Mapping[str, Any], described: Mapping[str, Any] | None
) -> Iterator[_Added]:
    """The tokens that the files add to the pieces; also such as stand among these."""
    if (folder / ADDED).is_file():
        for text, number in files.read_json(folder / ADDED, _MEND).items():
            yield _token(folder / ADDED, number, {"content": text})
    decoder = settings.get("added_tokens_decoder", {})
    if not isinstance(decoder, dict):
        raise RequestError(f"{folder / SETTINGS}: its added_tokens_decoder is no object; {_MEND}")
    for number, token in decoder.items():
        # Python makes no numbers of thousands of digits.
        known = number.isascii() and number.isdecimal() and len(number) < 20
        yield _token(folder / SETTINGS, int(number) if known else number, token)
    for described_token in _listed(folder / TOKENIZER, (described or {}).get("added_tokens", [])):
        yield _token(folder / TOKENIZER, described_token.get("id"), described_token)


def _agreed(tokens: Iterable[_Added]) -> dict[int, _Added]:
    """By their ids; RequestError where the files contradict one another."""
    by_id: dict[int, _Added] = {}
    by_text: dict[str, _Added] = {}
    for token in tokens:
        same = by_id.setdefault(token.number, token)
        if same.text != token.text:
            raise RequestError(f"{token}, which {same.text[:40]!r} has in {same.file.name}; {_MEND_BOTH}")
        same = by_text.setdefault(token.text, token)
        if same.number != token.number:
            raise RequestError(f"{token}, and {same.number} in {same.file.name}; {_MEND_BOTH}")
    return by_id


def _listed(file: pathlib.Path, tokens: Any) -> list[dict[str, Any]]:
    if not isinstance(tokens, list) or not all(isinstance(token, dict) for token in tokens):
        raise RequestError(f"{file}: its added_tokens are no list of objects; {_MEND}")
    return tokens


def _token(file: pathlib.Path, number: Any, token: Any) -> _Added:
    text = token.get("content") if isinstance(token, dict) else None
    if type(number) is not int or number < 0 or not _is_word(text):
        raise RequestError(
            f"{file}: the added token {str(text)[:40]!r} ({str(number)[:20]!r}) is no word with an id; {_MEND}"
        )
    if number not in _SPECIAL and token.get("single_word"):
        raise RequestError(
            f"{file}: the added token {text[:40]!r} is one of whole words, which cannot be imported; {GIVE_OTHER}"
        )
    return _Added(number, text, file)


def _is_word(text: Any) -> TypeGuard[str]:
    # A lone surrogate is no text in UTF-8.
    return isinstance(text, str) and text.split() == [text] and not re.search("[\ud800-\udfff]", text)


def _add(model: Model, tokens: Mapping[int, _Added], where: str) -> None:
    """Adds the tokens to the pieces, which are of the file `where`; RequestError where they contradict these."""
    numbers = {piece.piece: number for number, piece in enumerate(model.pieces)}
    for number, token in sorted(tokens.items()):
        if number < len(model.pieces):
            piece = model.pieces[number]
            known = (token.text, SPACE + token.text) if piece.type == Piece.USER_DEFINED else (token.text,)
            if piece.piece not in known or piece.type in (Piece.NORMAL, Piece.BYTE):
                raise RequestError(f"{token} of the piece {piece.piece[:40]!r} of {where}; {_MEND_BOTH}")
        elif number > len(model.pieces):
            raise RequestError(f"{token}, but none has the one before; {_MEND}")
        else:
            same = next(filter(numbers.__contains__, (token.text, SPACE + token.text)), None)
            if same is not None:
                raise RequestError(f"{token}, and the piece {same[:40]!r} of {where} {numbers[same]}; {_MEND_BOTH}")
            _append(model, token.text)


def _check_named(model: Model, folder: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Raises RequestError where a token is named whose id stands in a file that is not there."""
    known = {piece.piece.removeprefix(SPACE) for piece in model.pieces}
    named = settings.get("additional_special_tokens") or []
    for token in named if isinstance(named, list) else [named]:
        text = token.get("content") if isinstance(token, dict) else token
        if not isinstance(text, str) or text not in known:
            raise RequestError(
                f"{folder / SETTINGS}: names the token {str(text)[:40]!r}, which has no id in {PIECES}, {ADDED} and "
                f"{TOKENIZER}; copy the one that is lacking, or {GIVE}"
            )


# tokenizer.json


def _converted(file: pathlib.Path, described: Mapping[str, Any]) -> Model:
    """The pieces of a `tokenizer.json`, without those at its end that were added."""
    listed = _listed(file, described.get("added_tokens", []))
    model = tokenizers.ModelProto()
    try:
        added = {token.get("id"): str(token.get("content")) for token in listed}
        _normalize(model.normalizer_spec, described)
        pieces = _pieces(model.trainer_spec, described["model"])
        while len(pieces) - 1 in added and len(pieces) > len(_SPECIAL):
            piece, token = pieces.pop()[0].removeprefix(SPACE), added[len(pieces)].removeprefix(SPACE)
            if piece != token:
                raise ValueError(f"the added token {token[:40]!r} has the id {len(pieces)} of the piece {piece[:40]!r}")
        for number, (piece, score) in enumerate(pieces):
            kind = _kind(number, piece, number in added, model.trainer_spec.byte_fallback)
            model.pieces.add(piece=piece, score=score, type=kind)
        _check_model(model, described["model"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        said = f"lacks {error}" if isinstance(error, KeyError) else error
        raise RequestError(
            f"{file}: its tokenizer is none that SentencePiece can be ({said}); give --vocabulary=FILE, "
            "the SentencePiece model that it was made from, to `cd_jax import`"
        ) from error
    spec = model.trainer_spec
    spec.vocab_size, spec.pad_id, spec.eos_id, spec.unk_id, spec.bos_id = len(model.pieces), 0, 1, 2, -1
    spec.pad_piece, spec.eos_piece, spec.unk_piece = (model.pieces[number].piece for number in _SPECIAL)
    return tokenizers.checked(vocabulary.parse(model.SerializeToString(), file), file)


def _kind(number: int, piece: str, added: bool, bytes_: bool) -> Any:
    if number in _SPECIAL:
        return Piece.UNKNOWN if number == 2 else Piece.CONTROL
    if added:
        return Piece.USER_DEFINED
    return Piece.BYTE if bytes_ and _BYTE.fullmatch(piece) else Piece.NORMAL


def _pieces(spec: Any, given: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Pieces and their scores, in the order of their ids."""
    spec.byte_fallback = bool(given.get("byte_fallback"))
    if given["type"] == "Unigram":
        spec.model_type = tokenizers.UNIGRAM
        return [(piece, float(score)) for piece, score in given["vocab"]]
    if given["type"] != "BPE":
        raise ValueError(f"a model of type {given['type']!r}")
    spec.model_type = tokenizers.BYTE_PAIR
    pieces = sorted(given["vocab"], key=given["vocab"].__getitem__)
    if list(map(given["vocab"].__getitem__, pieces)) != list(range(len(pieces))):
        raise ValueError("ids that do not follow one another")
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(map(_pair, given["merges"])):
        ranks.setdefault(left + right, rank)
    # What nothing is merged to comes last; only its characters are ever met.
    return [(piece, -float(ranks.get(piece, len(given["merges"]) + number))) for number, piece in enumerate(pieces)]


def _pair(merge: Any) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def _check_model(model: Model, given: Mapping[str, Any]) -> None:
    """Raises ValueError where what we would write of the model is not what it was made of."""
    if tokenizers.is_unigram(model):
        wanted, found = tokenizers.unigram(model), {"byte_fallback": False} | dict(given)
    else:
        wanted, found = tokenizers.byte_pair(model), dict(given) | {"merges": list(map(_pair, given["merges"]))}
    for name, value in wanted.items():
        if name != "vocab" and (found.get(name) or None) != (value or None):
            raise ValueError(f"{name} of another kind than SentencePiece's")


def _normalize(spec: Any, described: Mapping[str, Any]) -> None:
    """What is done to a text before the model sees it; ValueError for anything that SentencePiece does not do."""
    spec.add_dummy_prefix = spec.remove_extra_whitespaces = spec.escape_whitespaces = False
    for step in itertools.chain(_steps(described, "normalizer"), _steps(described, "pretokenizer")):
        _take_step(spec, step)
    if not spec.escape_whitespaces or (_splits(described) and not spec.precompiled_charsmap):
        raise ValueError("spaces of another kind than SentencePiece's")


def _splits(described: Mapping[str, Any]) -> bool:
    return any(step["type"] == "WhitespaceSplit" for step in _steps(described, "pretokenizer"))


def _steps(described: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Of the `normalizer`, or of the `pretokenizer`, which is `pre_tokenizer` on its own and not in a sequence."""
    step = described.get(name.replace("pretok", "pre_tok"))
    if not step:
        return []
    return step[f"{name}s"] if step["type"] == "Sequence" else [step]


def _take_step(spec: Any, step: Mapping[str, Any]) -> None:
    kind = step["type"]
    if kind == "Precompiled":
        try:
            spec.precompiled_charsmap = base64.b64decode(step["precompiled_charsmap"] or "", validate=True)
        except binascii.Error as error:
            raise ValueError("a broken map of characters") from error
    elif kind == "WhitespaceSplit":
        spec.remove_extra_whitespaces = True
    elif kind == "Prepend" and step["prepend"] == SPACE:
        spec.add_dummy_prefix = True
    elif kind == "Metaspace" and step["replacement"] == SPACE and step.get("split", True):
        spec.escape_whitespaces = True
        spec.add_dummy_prefix = step.get("prepend_scheme", "always" if step.get("add_prefix_space") else "") == "always"
    elif kind == "Replace" and step["content"] == SPACE and step["pattern"] in ({"Regex": " "}, {"String": " "}):
        spec.escape_whitespaces = True
    elif kind == "Replace" and step["pattern"] in ({"Regex": " {2,}"}, {"Regex": r"\A +| +\z"}):
        spec.remove_extra_whitespaces = True
    else:
        raise ValueError(f"a {kind} that SentencePiece does not know")
