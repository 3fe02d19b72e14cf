"""Where parameters can come from: folders of Hugging Face's, checkpoints of T5X's, runs of ours."""

import dataclasses
import itertools
import re
from collections.abc import Callable
from typing import Any

from etils import epath

from cd_jax.errors import RequestError
from cd_jax.learning import compose
from cd_jax.rundir import files
from cd_jax.rundir.checkpoints import Checkpoints
from cd_jax.tasks.vocabulary import parse
from cd_jax.weights import huggingface, t5x_checkpoints, vocabularies

T5X = "T5X's"
# What Hugging Face's hub calls a model.
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Source:
    """A model of some program's.

    Attributes:
      kind: what it is, for the user.
      fields: of `T5Config`, all that describe the tensors.
      step: of the checkpoint.
      read: reads the parameters into the places of an abstract tree.
      vocabulary: reads the SentencePiece model that belongs to them; raises RequestError where there is none.
    """

    kind: str
    fields: dict[str, Any]
    step: int
    read: Callable[[Any], Any]
    vocabulary: Callable[[], bytes]

    def leaves_open(self, name: str, value: Any) -> bool:
        """Whether a field of `T5Config` may have this value where `fields` has another: dropout is in no weights, and
        a checkpoint of T5X's shows how many activations there are, not which."""
        unsaid = self.kind == T5X and name == "mlp_activations" and len(value) == len(self.fields[name])
        return name == "dropout_rate" or unsaid

    def check_network(self, network: dict[str, Any], source: str) -> None:
        """Compares it with another network.

        Args:
          network: `T5Config.shape`.
          source: of this one.

        Raises:
          RequestError: the other has another shape; the error names all bindings that differ, and what to give.
        """
        # Through JSON, as a checkpoint has it, a tuple is a list.
        plain = {name: tuple(v) if isinstance(v, list) else v for name, v in self.fields.items() if name in network}
        differing = {
            name: value
            for name, value in plain.items()
            if value != network[name] and not self.leaves_open(name, network[name])
        }
        if not differing:
            return
        config = epath.Path(source) / "config.gin"
        mend = f"give --gin_file={config}"
        if not config.is_file():
            mend = f"give {' '.join(itertools.starmap(_flag, differing.items()))}"
        said = ", ".join(f"T5Config.{name}={value!r} (here {network[name]!r})" for name, value in differing.items())
        raise RequestError(f"{source}: holds a network with {said}; {mend}")

    def check_pieces(self, model: bytes, where: object, source: str) -> None:
        """Compares a vocabulary with the rows of the embedding.

        Args:
          model: of SentencePiece.
          where: it is from, for the error.
          source: of this one.

        Raises:
          RequestError: it has more pieces than there are rows.
        """
        pieces, rows = len(parse(model, where).pieces), self.fields["vocab_size"]
        if pieces > rows:
            raise RequestError(
                f"{where}: has {pieces} pieces, the embedding of {source} {rows} rows; {vocabularies.GIVE_OTHER}"
            )


def _flag(name: str, value: Any) -> str:
    """A binding as the shell wants it."""
    return f'--gin.T5Config.{name}="{value!r}"' if isinstance(value, tuple) else f"--gin.T5Config.{name}={value!r}"


def recognise(source: str) -> Source:
    """What lies there.

    Args:
      source: a folder of Hugging Face's, a checkpoint of T5X's, or a run's `model_dir`.

    Raises:
      RequestError: there is no model, or what describes it is damaged.
    """
    folder = epath.Path(source)
    if (folder / "checkpoints").is_dir():
        return _own(folder)
    if huggingface.is_checkpoint(folder):
        fields = huggingface.read_config(folder)
        return Source(
            "Hugging Face's", fields, 0, lambda abstract: huggingface.read(folder, abstract),
            lambda: vocabularies.of_folder(folder, fields["vocab_size"]),
        )  # fmt: skip
    if t5x_checkpoints.is_checkpoint(source):
        fields = t5x_checkpoints.read_config(source)
        return Source(
            T5X, fields, t5x_checkpoints.step(source), lambda abstract: t5x_checkpoints.read(source, abstract),
            lambda: _beside(folder, fields["vocab_size"]),
        )  # fmt: skip
    if _HUB_NAME.fullmatch(source) and not folder.exists():
        raise RequestError(
            f"{source}: no such folder; if it is a model of Hugging Face's hub, fetch it first: "
            f"hf download {source} --local-dir DIR, then cd_jax import DIR"
        )
    raise RequestError(
        f"{source}: holds no model: neither {huggingface.CONFIG} (Hugging Face's), nor checkpoint_<step> (T5X's), "
        "nor checkpoints/ (a run's)"
    )


def _beside(folder: epath.Path, rows: int) -> bytes:
    """Of a checkpoint of T5X's."""
    path = folder / compose.VOCABULARY
    if not path.is_file():
        raise RequestError(f"{folder}: T5X's holds no vocabulary; {vocabularies.GIVE}")
    return vocabularies.with_sentinels(path, rows)


def _own(folder: epath.Path) -> Source:
    checkpoints = Checkpoints(folder, read_only=True)
    step, progress = checkpoints.best()
    vocabulary = folder / compose.VOCABULARY
    content = files.read_bytes(vocabulary, "copy it there again")
    compose.check_vocabulary(vocabulary, progress.identity)
    return Source(
        "a run", progress.identity["network"], step, lambda abstract: checkpoints.restore_params(step, abstract),
        lambda: content,
    )  # fmt: skip


def vocabulary(path: str) -> bytes:
    """The SentencePiece model in a file, or the one that belongs to the model in a folder.

    Args:
      path: of the file, or a source of `recognise`.

    Raises:
      RequestError: there is none, or it is damaged.
    """
    if epath.Path(path).is_dir():
        return recognise(path).vocabulary()
    content = files.read_bytes(path, "bind distill.vocabulary to a SentencePiece model, or to the folder of a model")
    parse(content, path)
    return content
