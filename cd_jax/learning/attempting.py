"""Attempts on disk: `inference/<task>-<step>.jsonl`, written by evaluation and rounds, read by rounds."""

import json
import pathlib
from collections.abc import Sequence

from cd_jax.feed import formats
from cd_jax.rundir import files
from cd_jax.types import Attempt, Example
from cd_jax.verifier.answers import ExactMatch

Attempts = dict[str, list[Attempt]]


def file_of(model_dir: pathlib.Path, task: str, split: str, step: int) -> pathlib.Path:
    """`inference/<task>-<step>.jsonl`; splits other than test have their name in it."""
    name = task if split == "test" else f"{task}_{split}"
    return model_dir / "inference" / f"{name}-{step}.jsonl"


def grouped(attempts: Sequence[Attempt]) -> Attempts:
    """By `example_id`."""
    found: Attempts = {}
    for attempt in attempts:
        found.setdefault(attempt.example.example_id, []).append(attempt)
    return found


def write(path: pathlib.Path, attempts: Sequence[Attempt]) -> None:
    """Writes them, all or none."""
    lines = [json.dumps(attempt.record(), ensure_ascii=False) + "\n" for attempt in attempts]
    files.write_text(path, "".join(lines))


def read(path: pathlib.Path, examples: Sequence[Example]) -> Attempts:
    """The attempts at these examples, by `example_id`; those at others are left out.

    Raises:
      RequestError: the file is missing, or a line is malformed.
    """
    of_id, exact = {example.example_id: example for example in examples}, ExactMatch()
    seen: set[tuple[str, int]] = set()

    def parse(record: files.Json) -> Attempt | None:
        for name in ("example_id", "generation"):
            if not isinstance(record[name], str):
                raise TypeError(f"its {name} is not text")
        sample, score = record.get("sample", 0), record.get("score")
        if type(sample) is not int or sample < 0:
            raise TypeError("its sample is no whole number")
        key = record["example_id"], sample
        if key in seen:
            raise ValueError(f"sample {sample} of {key[0]} stands in a line before")
        seen.add(key)
        example = of_id.get(key[0])
        if example is None:
            return None
        said = formats.parse_answer(record["generation"])
        correct = exact([said], [example.answer])[0] == 1.0
        graded = float(score) if isinstance(score, int | float) else float(correct)
        return Attempt(example, record["generation"], said, correct, graded, [], sample=sample)

    mend = "`cd_jax infer` writes attempts into model_dir/inference/"
    rows = files.read_json_lines(path, parse, "an attempt", mend)
    return grouped([attempt for attempt in rows if attempt])
