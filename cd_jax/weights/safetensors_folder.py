"""Tensors in a folder of safetensors, in one file or in several with an index; none is read before it is asked for."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import ml_dtypes  # noqa: F401  Lets numpy, and so safetensors, know bfloat16 by its name.
import numpy as np
import safetensors

from cd_jax.errors import RequestError
from cd_jax.rundir import files
from cd_jax.weights import names

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_MEND = "copy it again, whole"
# Of the files that the index names: none elsewhere.
_NAME = re.compile(r"[\w.-]+\.safetensors", re.ASCII)


class Stored:
    """A tensor on the disk, for `names.stack`; its slices alone are read.

    Attributes:
      shape: its own, or the other way round where it is `transposed`.
      dtype: such as `F32`.
    """

    def __init__(self, path: pathlib.Path, file: Any, name: str, transposed: bool = False):
        self._path, self._file, self._name, self._transposed = path, file, name, transposed
        shape = tuple(file.get_slice(name).get_shape())
        self.shape = shape[::-1] if transposed else shape
        self.dtype: str = file.get_slice(name).get_dtype()

    def transposed(self) -> "Stored":
        """Axes the other way round."""
        return Stored(self._path, self._file, self._name, transposed=True)

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        read = self._file.get_slice(self._name)[index[::-1] if self._transposed else index]
        names.check_finite(read, self._name, self._path)
        return read.T if self._transposed else read


def read(folder: pathlib.Path) -> dict[str, Stored]:
    """All tensors of the folder by their names there, opened but not read.

    Args:
      folder: with `model.safetensors`, or with the files of an index.

    Raises:
      RequestError: a file is missing or damaged, or the index and they do not agree.
    """
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        file = _open(folder / WEIGHTS)
        names.check_names(file.keys(), folder / WEIGHTS)
        return {name: Stored(folder / WEIGHTS, file, name) for name in file.keys()}  # noqa: SIM118  It is no dictionary.
    of = files.read_json(folder / INDEX, _MEND).get("weight_map")
    if not isinstance(of, dict) or not all(isinstance(file, str) and _NAME.fullmatch(file) for file in of.values()):
        raise RequestError(f"{folder / INDEX}: lacks weight_map, which says where the tensors are; {_MEND}")
    names.check_names(of, folder / INDEX)
    opened = {file: _open(folder / file) for file in sorted(set(of.values()))}
    _check_index(folder, of, {file: set(found.keys()) for file, found in opened.items()})
    return {name: Stored(folder / file, opened[file], name) for name, file in of.items()}


def check_floating(found: Mapping[str, Stored], where: object) -> None:
    """Raises RequestError, which names the tensor, where one is of no floating type that is read."""
    for name, tensor in found.items():
        if tensor.dtype not in ("F32", "BF16", "F16"):
            raise RequestError(f"{where}: the tensor {name} is {tensor.dtype}; save it as F32, BF16 or F16")


def _check_index(folder: pathlib.Path, of: Mapping[str, str], found: Mapping[str, set[str]]) -> None:
    """Raises RequestError where a file lacks a tensor of the index, or has one that the index has elsewhere."""
    for name, file in of.items():
        if name not in found[file]:
            raise RequestError(f"{folder / file}: lacks the tensor {name}, which {INDEX} says is there; copy it again")
    for file, tensors in found.items():
        names.check_names(tensors, folder / file)
        for name in sorted(tensors):
            if of.get(name) != file:
                said = f"is in {of[name]}" if name in of else "is in no file"
                raise RequestError(
                    f"{folder / file}: holds the tensor {name}, which {INDEX} says {said}; copy them again, whole"
                )


def _open(file: pathlib.Path) -> Any:
    try:
        return safetensors.safe_open(file, "np")
    except FileNotFoundError as error:
        others = sorted(path.name for path in file.parent.glob("pytorch_model*.bin"))
        mend = f"save it from transformers as safetensors, not as {others[0]}" if others else "copy it, too"
        raise RequestError(f"{file}: no such file; {mend}") from error
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise RequestError(f"{file}: is damaged or cut off ({error}); {_MEND}") from error
