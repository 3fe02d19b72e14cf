"""BLEURT's checkpoints (arXiv 2004.04696): the official folders, the PyTorch ports, and what is tuned here.

An official folder has `bleurt_config.json`, `bert_config.json`, the vocabulary, and the variables of a TensorFlow graph
in `variables/`. A port has `config.json` and `model.safetensors`. What is tuned here is an official folder with
`model.safetensors` in place of the graph. In all of them `gelu` is the original BERT's, by tanh.
"""

import dataclasses
import os
import pathlib
from typing import Any

from cd_jax.errors import RequestError
from cd_jax.nets.bert import BertConfig
from cd_jax.rundir import files
from cd_jax.weights import bert, wordpiece
from cd_jax.weights.safetensors_folder import INDEX, WEIGHTS

_MEND = "copy it again, whole"
_BLEURT, _BERT, _PORT = "bleurt_config.json", "bert_config.json", "config.json"
_VARIABLES = pathlib.Path("variables", "variables")
_SENTENCEPIECE = ("spm.model", "sent_piece.model", "sentencepiece.model", "spiece.model")
_SHORTEST = 8  # tokens of the two texts and three marks: less is damaged


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a folder says of itself.

    Attributes:
      folder: where it lies.
      config: of the network.
      tokenizer: of its texts.
      max_length: tokens of a pair, with its three marks, at most.
      vocabulary: the file of the tokenizer.
      lower: whether texts are lowered, where the vocabulary is of WordPiece.
    """

    folder: pathlib.Path
    config: BertConfig
    tokenizer: wordpiece.Tokenizer
    max_length: int
    vocabulary: pathlib.Path
    lower: bool

    @property
    def is_test(self) -> bool:
        """Whether it has the size of its authors' test checkpoint, 2 layers of 128."""
        return (self.config.num_hidden_layers, self.config.hidden_size) == (2, 128)


def describe(path: str | os.PathLike) -> Checkpoint:
    """Reads all of a checkpoint but its parameters.

    Args:
      path: its folder.

    Raises:
      RequestError: there is none, or it is damaged.
    """
    folder = pathlib.Path(path)
    if not folder.is_dir():
        raise RequestError(
            f"{folder}: no such folder; download a checkpoint of BLEURT's, such as BLEURT-20-D12, unzip it"
        )
    if (folder / _BLEURT).is_file():
        return _official(folder)
    if (folder / _PORT).is_file():
        return _port(folder)
    raise RequestError(f"{folder}: no checkpoint of BLEURT's: neither {_BLEURT} nor {_PORT} is there; name its folder")


def _official(folder: pathlib.Path) -> Checkpoint:
    file = folder / _BLEURT
    given = files.read_json(file, _MEND)
    config = bert.read_config(folder / _name(file, given, "bert_config_file"), gelu="gelu_tanh")
    lower = given.get("do_lower_case")
    # As there: a SentencePiece model serves where there is no vocabulary of WordPiece.
    if given.get("vocab_file") and isinstance(lower, bool):
        return _checkpoint(folder, config, folder / _name(file, given, "vocab_file"), lower, file, given)
    vocabulary = folder / f"{_name(file, given, 'sp_model')}.model"
    return _checkpoint(folder, config, vocabulary, False, file, given)


def _name(file: pathlib.Path, given: dict[str, Any], field: str) -> str:
    """The name of another file of the folder, and no path out of it."""
    name = given.get(field)
    if not isinstance(name, str) or not name.isprintable() or pathlib.PurePath(name).name != name:
        raise RequestError(f"{file}: {field}={str(name)[:40]!r} is no name of a file in its folder; {_MEND}")
    return name


def _port(folder: pathlib.Path) -> Checkpoint:
    config = bert.read_config(folder / _PORT, gelu="gelu_tanh")
    file = folder / "tokenizer_config.json"
    given = files.read_json(file, _MEND) if file.is_file() else {}
    longest = given.get("model_max_length")
    limited = type(longest) is int and longest < config.max_position_embeddings
    given["max_seq_length"] = longest if limited else config.max_position_embeddings
    found = next((folder / name for name in _SENTENCEPIECE if (folder / name).is_file()), folder / "vocab.txt")
    return _checkpoint(folder, config, found, given.get("do_lower_case") is not False, file, given)


def _checkpoint(
    folder: pathlib.Path,
    config: BertConfig,
    vocabulary: pathlib.Path,
    lower: bool,
    file: pathlib.Path,
    given: dict[str, Any],
) -> Checkpoint:
    length, most = given.get("max_seq_length"), config.max_position_embeddings
    if type(length) is not int or not _SHORTEST <= length <= most:
        said = f"max_seq_length={str(length)[:40]!r} is not a whole number in {_SHORTEST}..{most}"
        raise RequestError(f"{file}: {said}, the positions that the network has; {_MEND}")
    is_wordpiece = vocabulary.suffix == ".txt"
    tokenizer: wordpiece.Tokenizer = (
        wordpiece.read_wordpiece(vocabulary, lower) if is_wordpiece else wordpiece.read_sentencepiece(vocabulary)
    )
    if tokenizer.size > config.vocab_size:
        rows = f"{tokenizer.size} pieces, the network's embedding {config.vocab_size} rows"
        raise RequestError(f"{vocabulary}: has {rows}; copy the vocabulary that belongs to it")
    return Checkpoint(folder, config, tokenizer, length, vocabulary, lower)


def read(checkpoint: Checkpoint, abstract: Any) -> Any:
    """The parameters.

    Args:
      checkpoint: of `describe`.
      abstract: the tree of `BertRegressor`: shapes, types and shardings.

    Raises:
      RequestError: they are missing or damaged, or belong to another network.
    """
    folder = checkpoint.folder
    if (folder / f"{_VARIABLES}.index").is_file() and not (folder / WEIGHTS).is_file():
        return bert.read_variables(folder / _VARIABLES, abstract)
    if not any((folder / name).is_file() for name in (WEIGHTS, INDEX)) and (folder / _BLEURT).is_file():
        raise RequestError(f"{folder}: lacks {_VARIABLES}.index, which lists the variables; copy it, too")
    return bert.read_safetensors(folder, abstract)


def write(directory: str | os.PathLike, checkpoint: Checkpoint, params: Any) -> None:
    """Writes a folder that `describe` and `read` take, whole or not at all.

    Args:
      directory: where to; what is there goes away.
      checkpoint: what the parameters were tuned from.
      params: of `BertRegressor`.

    Raises:
      RunError: the disk is full.
    """
    is_wordpiece = checkpoint.vocabulary.suffix == ".txt"
    vocabulary = "vocab.txt" if is_wordpiece else "sent_piece.model"
    described = {
        "name": pathlib.Path(directory).name,
        "bert_config_file": _BERT,
        "max_seq_length": checkpoint.max_length,
        "vocab_file": vocabulary if is_wordpiece else None,
        "do_lower_case": checkpoint.lower if is_wordpiece else None,
        "sp_model": None if is_wordpiece else vocabulary.removesuffix(".model"),
    }
    with files.new_folder(directory) as folder:
        bert.write_safetensors(folder, params)
        files.write_bytes(folder / vocabulary, files.read_bytes(checkpoint.vocabulary, _MEND))
        files.write_json(folder / _BERT, dataclasses.asdict(checkpoint.config))
        files.write_json(folder / _BLEURT, described)
