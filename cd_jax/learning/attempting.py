"""Attempts on disk: `inference/<task>-<step>.jsonl`, written by evaluation and rounds, read by rounds."""

from collections.abc import Sequence

from etils import epath

from cd_jax.feed import formats
from cd_jax.rundir import attempts, files
from cd_jax.types import Attempt, Example
from cd_jax.verifier.answers import ExactMatch

Attempts = dict[str, list[Attempt]]


def file_of(model_dir: epath.Path, task: str, split: str, step: int) -> epath.Path:
    """`inference/<task>-<step>.jsonl`; splits other than test have their name in it."""
    name = task if split == "test" else f"{task}_{split}"
    return model_dir / "inference" / f"{name}-{step}.jsonl"


def grouped(made: Sequence[Attempt]) -> Attempts:
    """By `example_id`."""
    found: Attempts = {}
    for attempt in made:
        found.setdefault(attempt.example.example_id, []).append(attempt)
    return found


def read(path: files.Path, examples: Sequence[Example]) -> Attempts:
    """The attempts at these examples, by `example_id`; those at others are left out.

    Raises:
      RequestError: as `rundir.attempts.read` does.
    """
    of_id, exact = {example.example_id: example for example in examples}, ExactMatch()

    def judged(said: attempts.Said) -> Attempt:
        example, prediction = of_id[said.example_id], formats.parse_answer(said.generation)
        score = exact([prediction], [example.answer])[0]
        graded = score if said.score is None else said.score
        return Attempt(example, said.generation, prediction, score == 1.0, graded, [], sample=said.sample)

    return grouped([judged(said) for said in attempts.read(path) if said.example_id in of_id])
