"""`cd_jax distill`: a teacher explains the source examples; the vocabulary is made from what there is to read."""

import json
import os
import pathlib
from collections.abc import Callable

import gin

from cd_jax import tasks
from cd_jax.errors import RequestError
from cd_jax.progress import ProgressLine
from cd_jax.ranges import PositiveInt, Seed
from cd_jax.run import data
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.types import Example, Update
from cd_jax.update import store
from cd_jax.update.oracle import OracleTeacher
from cd_jax.update.teacher import Teacher
from cd_jax.verifier.answers import ChrF, parse_answer

# Texts that every vocabulary must spell: the ordinals of passages and the answer's marker.
_ALWAYS = "1: 2: 3: 4: 5: 6: 7: 8: 9: answer: yes no"
_CHUNK = 500


@gin.configurable
def distill(
    model_dir: str,
    source: str,
    targets: list[str],
    teacher: Callable[[], Teacher] = OracleTeacher,
    num_updates: PositiveInt = 3,
    seed: Seed = 0,
    attempts: str | None = None,
    vocabulary: str | None = None,
    vocabulary_size: PositiveInt = 4000,
) -> None:
    """Writes `updates.jsonl` and `vocabulary.model`; goes on where an earlier call was stopped.

    Args:
      model_dir: where to.
      source: task or mixture whose training examples are explained.
      targets: tasks that the solver will meet; their training texts go into the vocabulary, and nowhere else.
      teacher: makes the update policy.
      num_updates: explanations of an example.
      seed: of the teacher.
      attempts: an `inference/….jsonl` of the source's examples, so that the teacher sees what the solver said.
      vocabulary: a SentencePiece model to use; None trains one on the texts and the updates.
      vocabulary_size: pieces of a trained vocabulary, at most.

    Raises:
      RequestError: data, attempts or updates that are there are missing or malformed.
    """
    tasks.register(**data())
    examples = tasks.examples(source, "train")
    texts = []
    for name in (source, *targets):
        texts += [example.prompt for example in tasks.examples(name, "train")]
        # Read for their errors alone: a malformed line is to show now, and not when training is over.
        for split in tasks.splits(name):
            tasks.examples(name, split)
    generations = read_attempts(attempts) if attempts else {}
    if vocabulary:
        vocabularies.load(vocabulary)  # For its errors, before a teacher is paid.
    path = pathlib.Path(model_dir) / "updates.jsonl"
    done = store.read_grouped(path) if path.exists() else {}
    asked = teacher()
    _check_same(path, examples, done, seed, asked.name)
    kept = pathlib.Path(model_dir) / "vocabulary.model"
    if vocabulary and kept.exists() and kept.read_bytes() != pathlib.Path(vocabulary).read_bytes():
        raise RequestError(f"{kept}: is another vocabulary than {vocabulary}; choose another --model_dir")
    store.repair(path)
    waiting = [example for example in examples if len(done.get(example.example_id, ())) < num_updates]
    if waiting:
        _explain(path, waiting, done, asked, generations, num_updates, seed)
    updates = store.read(path)
    print(f"[distill] {len(updates)} updates of {len(examples)} examples in {path}", flush=True)
    if not kept.exists():
        texts += [f"answer: {example.answer}" for example in examples] + [update.update for update in updates]
        model = pathlib.Path(vocabulary).read_bytes() if vocabulary else None
        # In one piece: half of one would be taken for the whole by the next call.
        temporary = kept.with_suffix(".tmp")
        temporary.write_bytes(model or vocabularies.train([_ALWAYS, *dict.fromkeys(texts)], vocabulary_size))
        os.replace(temporary, kept)


def _check_same(
    path: pathlib.Path, examples: list[Example], done: dict[str, list[Update]], seed: int, teacher: str
) -> None:
    """Updates of another source, seed or teacher must not be mixed with these."""
    strangers = done.keys() - {example.example_id for example in examples}
    seeds = {update.seed for group in done.values() for update in group} - {seed}
    teachers = {update.teacher for group in done.values() for update in group} - {teacher}
    if teachers:
        raise RequestError(f"{path}: holds updates of the teacher {min(teachers)!r}; choose another --model_dir")
    if strangers or seeds:
        what = f"example {min(strangers)!r}, which the source does not have" if strangers else f"seed {min(seeds)}"
        raise RequestError(f"{path}: holds updates of {what}; choose another --model_dir")


def _explain(
    path: pathlib.Path,
    examples: list[Example],
    done: dict[str, list[Update]],
    teacher: Teacher,
    generations: dict[str, str],
    num_updates: int,
    seed: int,
) -> None:
    """Asks the teacher; what it has said is on disk after every chunk (every example, where asking is slow)."""
    graded = ChrF()
    chunk = _CHUNK if isinstance(teacher, OracleTeacher) else 1
    line = ProgressLine("distill", len(examples))
    for start in range(0, len(examples), chunk):
        updates = []
        for example in examples[start : start + chunk]:
            attempt = generations.get(example.example_id)
            score = graded([parse_answer(attempt)], [example.answer])[0] if attempt is not None else None
            said = teacher.explain(example, attempt, num_updates, seed)
            known = {update.update for update in done.get(example.example_id, ())}
            new = [explanation for explanation in said if explanation.text not in known]
            for sample, explanation in enumerate(new[: num_updates - len(known)], len(known)):
                updates.append(
                    Update(
                        example.example_id, example.task, explanation.text, teacher.name, explanation.prompt,
                        sample, seed, score,
                    )
                )  # fmt: skip
        store.append(path, updates)
        if (start // chunk) % 10 == 0 or start + chunk >= len(examples):
            line.report(min(start + chunk, len(examples)), 1, f"teacher {teacher.name}")


def read_attempts(path: str) -> dict[str, str]:
    """Generations by example, from an `inference/….jsonl`.

    Raises:
      RequestError: the file is missing, or a line is malformed.
    """
    if not pathlib.Path(path).is_file():
        raise RequestError(f"{path}: no such file; `cd_jax infer` writes attempts into model_dir/inference/")
    generations = {}
    # Read as bytes: only b"\n" ends a line here, and text that is not UTF-8 is reported with its line.
    for number, line in enumerate(pathlib.Path(path).read_bytes().removesuffix(b"\n").split(b"\n"), 1):
        try:
            record = json.loads(line)
            if not isinstance(record["generation"], str):
                raise TypeError("its generation is not text")
            generations[record["example_id"]] = record["generation"]
        except (ValueError, KeyError, TypeError) as error:
            raise RequestError(
                f"{path}:{number}: not an attempt ({error}); write the file with `cd_jax infer`"
            ) from error
    return generations
