"""What bAbI and Com2Sense are read from: the original files, what TFDS has prepared, or what is embedded."""

import dataclasses
import functools
from collections.abc import Sequence

from cd_jax.errors import RequestError
from cd_jax.tasks import prepared
from cd_jax.tasks.babi import archive
from cd_jax.tasks.babi.worlds import WORLDS, generate, shifts
from cd_jax.tasks.com2sense import pairs as com2sense_pairs
from cd_jax.tasks.com2sense import reader as com2sense_reader
from cd_jax.tasks.source import Read
from cd_jax.types import Example

SPLITS = ("train", "validation", "test")
# The TFDS configuration of the release.
_COM2SENSE = "com2sense/original"


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the data is; see `Catalogue`."""

    babi_dir: str | None
    com2sense_dir: str | None
    tfds_data_dir: str | None
    babi_layout: str | None

    def check(self) -> None:
        """Refuses folders that are not there, a layout that is none, and what nothing would be read from.

        Raises:
          RequestError: so it is.
        """
        self._check_layout()
        if self.babi_dir is not None:
            archive.find_folder(self.babi_dir, self.babi_layout)
        if self.com2sense_dir is not None:
            com2sense_reader.find_folder(self.com2sense_dir)
        if self.tfds_data_dir is not None and self.tfds_data_dir not in "".join(self.described().values()):
            raise RequestError(
                f"{self.tfds_data_dir}: nothing is read from there; it holds no {_COM2SENSE} of `tfds build`, or "
                "--babi_dir and --com2sense_dir come before it; leave --tfds_data_dir out"
            )

    def _check_layout(self) -> None:
        if self.babi_layout is None:
            return
        if self.babi_layout not in archive.LAYOUTS:
            raise RequestError(
                f"BABI_LAYOUT={self.babi_layout!r} is none of {', '.join(archive.LAYOUTS)}; bind it to one of them"
            )
        if self.babi_dir is None and self.tfds_data_dir is None:
            raise RequestError(
                f"BABI_LAYOUT={self.babi_layout!r} is a folder of the archive; give --babi_dir or --tfds_data_dir, too"
            )

    def prepared_babi(self) -> str | None:
        """The TFDS configuration of bAbI to read; None where the embedded worlds serve.

        Raises:
          RequestError: it is not there, nor is Com2Sense.
        """
        if self.tfds_data_dir is None:
            return None
        layouts = (self.babi_layout,) if self.babi_layout else (*archive.ENGLISH, "worlds")
        found = [f"babi/{name}" for name in layouts if prepared.is_prepared(f"babi/{name}", self.tfds_data_dir)]
        if not found and (self.babi_layout or not prepared.is_prepared(_COM2SENSE, self.tfds_data_dir)):
            raise RequestError(
                f"{self.tfds_data_dir}: neither babi/{' nor babi/'.join(layouts)} is prepared there; run `tfds build` "
                "(tasks/babi/README.md), or give --babi_dir"
            )
        return found[0] if found else None

    def described(self) -> dict[str, str]:
        """Where each of the two is read from."""
        babi, com2sense = self.babi_dir, self.com2sense_dir
        if self.tfds_data_dir is not None:
            babi = babi or (f"{self.tfds_data_dir}/{config}" if (config := self.prepared_babi()) else None)
            if prepared.is_prepared(_COM2SENSE, self.tfds_data_dir):
                com2sense = com2sense or f"{self.tfds_data_dir}/{_COM2SENSE}"
        return {"bAbI": babi or "the embedded worlds", "Com2Sense": com2sense or "the embedded pairs"}


def babi_tasks(data: Data) -> dict[str, Read]:
    """`babi_qa1` to `babi_qa20`."""
    names = {number: f"babi_qa{number}" for number in archive.TASK_NAMES}
    if data.babi_dir is not None:
        return {
            task: functools.partial(archive.read, data.babi_dir, number, task=task, layout=data.babi_layout)
            for number, task in names.items()
        }
    if config := data.prepared_babi():
        return {
            task: functools.partial(_prepared, config, data.tfds_data_dir, task[5:] + "_") for task in names.values()
        }
    return {names[n]: functools.partial(_world, n, names[n], generate.RELEASED, generate.SIZES) for n in WORLDS}


def _prepared(name: str, data_dir: str, prefix: str, split: str) -> Sequence[Example]:
    return prepared.read(name, data_dir, prefix + split)


def com2sense_task(data: Data) -> tuple[Read, tuple[str, ...]]:
    """`com2sense`, and its splits."""
    if data.com2sense_dir is not None:
        return functools.partial(com2sense_reader.read, data.com2sense_dir, task="com2sense"), (*SPLITS, "unlabelled")
    if data.tfds_data_dir is not None and prepared.is_prepared(_COM2SENSE, data.tfds_data_dir):
        return functools.partial(_prepared, _COM2SENSE, data.tfds_data_dir, ""), (*SPLITS, "unlabelled")
    return functools.partial(com2sense_pairs.read, task="com2sense"), SPLITS


def shifted_tasks() -> dict[str, dict[str, Read]]:
    """Of each named shift its tasks, `babi_qaN_<shift>`; always embedded."""
    return {
        shift: {
            task: functools.partial(_world, n, task, setting, shifts.sizes_of(shift))
            for n, task in ((n, f"babi_qa{n}_{shift}") for n in shifts.worlds_of(shift))
        }
        for shift, setting in shifts.SHIFTS.items()
    }


def _world(number: int, task: str, setting: generate.Setting, sizes: dict[str, int], split: str) -> Sequence[Example]:
    if split not in sizes:
        raise RequestError(f"{task} has no split {split!r}; choose one of {', '.join(sizes)}")
    return generate.read(number, split, task, sizes[split], setting)
