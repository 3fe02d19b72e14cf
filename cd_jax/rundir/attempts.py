"""`inference/<task>-<step>.jsonl`: one attempt of the solver's a line, and what it had retrieved."""

from collections.abc import Iterable

import msgspec

from cd_jax.rundir import files, journal
from cd_jax.types import Attempt


class Said(msgspec.Struct, frozen=True):
    """What matters of an `Attempt.record` to a round. `sample` tells several attempts at one example apart."""

    example_id: str
    generation: str
    sample: journal.Count = 0
    score: journal.Share | None = None


class _Passage(msgspec.Struct, frozen=True):
    update: str


class _Remembered(msgspec.Struct, frozen=True):
    """What a memory gave to an attempt."""

    example_id: str
    retrieved: list[_Passage]


def write(path: files.Path, attempts: Iterable[Attempt]) -> None:
    """Writes the file whole. Raises RunError where it cannot be written."""
    journal.write(path, (attempt.record() for attempt in attempts))


def read(path: files.Path) -> list[Said]:
    """What matters of each attempt.

    Raises:
      RequestError: the file is missing, a line is malformed, or two are the same sample of an example.
    """
    seen: set[tuple[str, int]] = set()

    def checked(said: Said) -> Said:
        if (said.example_id, said.sample) in seen:
            raise ValueError(f"sample {said.sample} of {said.example_id} stands in a line before")
        seen.add((said.example_id, said.sample))
        return said

    mend = "`cd_jax infer` writes attempts into model_dir/inference/"
    return journal.read(path, Said, checked, "an attempt", mend)


def read_retrieved(path: files.Path, mend: str) -> dict[str, list[str]]:
    """The updates that memory gave for each example.

    Args:
      path: of the file.
      mend: ends the error.

    Raises:
      RequestError: the file is missing, or a line is malformed.
    """
    lines = journal.read(path, _Remembered, lambda line: line, "a line of such a file", mend)
    return {line.example_id: [passage.update for passage in line.retrieved] for line in lines}
