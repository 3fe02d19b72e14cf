"""`cd_jax distill`: a teacher explains the source examples; the vocabulary is made from what there is to read."""

import pathlib
from collections.abc import Callable, Iterator

import gin

from cd_jax import tasks
from cd_jax.config.ranges import PositiveInt, Seed
from cd_jax.errors import RequestError, RunError
from cd_jax.learning.compose import VOCABULARY, data
from cd_jax.learning.progress import ProgressLine
from cd_jax.rundir import exhausted, files, interrupt, lock
from cd_jax.rundir import updates as store
from cd_jax.rundir.attempts import read_attempts
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.types import Example, Update
from cd_jax.update.teachers.oracle import OracleTeacher
from cd_jax.update.teachers.teacher import Explanation, SamplingTeacher, Teacher
from cd_jax.verifier.answers import ChrF, parse_answer
from cd_jax.weights import sources

# Texts that every vocabulary must spell: the ordinals of passages and the answer's marker.
_ALWAYS = "1: 2: 3: 4: 5: 6: 7: 8: 9: answer: yes no"
_CHUNK = 500


@gin.configurable
def distill(
    model_dir: str,
    source: str,
    targets: list[str],
    teacher: Callable[[], Teacher] | None = OracleTeacher,
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
      teacher: makes the update policy; None takes the updates that are there, whoever wrote them.
      num_updates: explanations of an example.
      seed: of the teacher.
      attempts: an `inference/….jsonl` of the source's examples, so that the teacher sees what the solver said.
      vocabulary: a SentencePiece model to use, or the folder of a model to take it from (see `interop.sources`); None
        trains one on the texts and the updates.
      vocabulary_size: pieces of a trained vocabulary, at most.

    Raises:
      RequestError: data, attempts or updates that are there are missing or malformed.
      RunError: there is no explanation at all, or the teacher cannot be asked.
    """
    with lock.exclusive(model_dir, "distill"):
        tasks.register(**data())
        examples = tasks.examples(source, "train")
        texts = []
        for name in (source, *targets):
            texts += [example.prompt for example in tasks.examples(name, "train")]
            # Read for their errors alone: a malformed line is to show now, and not when training is over.
            for split in tasks.splits(name):
                tasks.examples(name, split)
        generations = read_attempts(attempts) if attempts else {}
        wanted = sources.vocabulary(vocabulary) if vocabulary else None  # For its errors, before a teacher is paid.
        path, kept = pathlib.Path(model_dir) / store.NAME, pathlib.Path(model_dir) / VOCABULARY
        done = store.read_grouped(path) if path.exists() else {}
        asked = teacher() if teacher else None
        _check_same(path, examples, done, seed, asked)
        _check_vocabulary(kept, wanted, vocabulary)
        store.repair(path)
        told = _explain(path, examples, done, asked, generations, num_updates, seed) if asked else ""
        updates = store.read(path) if path.exists() else []
        if not updates:
            raise RunError(f"{path}: there is no explanation of {len(examples)} examples{told}; mend the teacher")
        print(f"[distill] {len(updates)} updates of {len(examples)} examples in {path}{told}", flush=True)
        if not kept.exists():
            texts += [f"answer: {example.answer}" for example in examples] + [update.update for update in updates]
            files.write_bytes(kept, wanted or vocabularies.train([_ALWAYS, *dict.fromkeys(texts)], vocabulary_size))


def _check_vocabulary(kept: pathlib.Path, wanted: bytes | None, where: str | None) -> None:
    """Removes a vocabulary of ours that is damaged, to be made anew.

    Raises:
      RequestError: another one is there than is wanted.
    """
    if not kept.exists():
        return
    if wanted and kept.read_bytes() != wanted:
        raise RequestError(f"{kept}: is another vocabulary than that of {where}; choose another --model_dir")
    try:
        vocabularies.load(kept)
    except RequestError:
        print(f"[distill] {kept} is damaged and is made anew", flush=True)
        kept.unlink()


def _check_same(
    path: pathlib.Path, examples: list[Example], done: dict[str, list[Update]], seed: int, teacher: Teacher | None
) -> None:
    """Updates of another source, seed or teacher must not be mixed with these."""
    strangers = done.keys() - {example.example_id for example in examples}
    if strangers:
        raise RequestError(
            f"{path}: holds updates of example {min(strangers)!r}, which the source does not have; "
            "choose another --model_dir"
        )
    if teacher is None:
        return  # Whoever wrote them: nobody adds to them.
    seeds = {update.seed for group in done.values() for update in group} - {seed}
    teachers = {update.teacher for group in done.values() for update in group} - {teacher.name}
    if teachers:
        raise RequestError(
            f"{path}: holds updates of the teacher {min(teachers)!r}; choose another --model_dir, or add none to them: "
            "--gin.distill.teacher=None"
        )
    if seeds:
        raise RequestError(f"{path}: holds updates of seed {min(seeds)}; choose another --model_dir")


class _Asking:
    """What a teacher is asked, and where its answers go."""

    def __init__(self, path: pathlib.Path, teacher: Teacher, num_updates: int, seed: int):
        self._path, self._teacher, self._wanted, self._seed = path, teacher, num_updates, seed
        self._graded = ChrF()
        self._exhausted = exhausted.read(path.parent)

    def _key(self, example: Example, attempt: str | None) -> tuple[str, str, str]:
        sampling = isinstance(self._teacher, SamplingTeacher)
        told = self._teacher.request_hash(example, attempt) if sampling else ""  # type: ignore[attr-defined]
        return example.example_id, self._teacher.name, told

    def updates(self, example: Example, attempt: str | None, known: list[Update]) -> Iterator[Update]:
        """Those that are missing, as far as the teacher has more to say."""
        key = self._key(example, attempt)
        if self._exhausted.get(key, 0) >= self._wanted:
            return
        score = self._graded([parse_answer(attempt)], [example.answer])[0] if attempt is not None else None
        found = 0
        for sample, explanation, reason in self._explanations(example, attempt, known):
            found += 1
            yield Update(
                example.example_id, example.task, explanation.text, self._teacher.name, explanation.prompt,
                sample, self._seed, score, reason,
            )  # fmt: skip
        if found + len(known) < self._wanted:
            exhausted.append(self._path.parent, exhausted.Exhausted(*key, self._wanted))

    def _explanations(
        self, example: Example, attempt: str | None, known: list[Update]
    ) -> Iterator[tuple[int, Explanation, str]]:
        """With their indices, and what is odd about them."""
        teacher, texts = self._teacher, [update.update for update in known]
        missing = [s for s in range(self._wanted) if s not in {update.sample for update in known}]
        if not isinstance(teacher, SamplingTeacher):
            said = teacher.explain(example, attempt, self._wanted, self._seed)
            fresh = dict.fromkeys(explanation for explanation in said if explanation.text not in texts)
            yield from ((sample, explanation, "") for sample, explanation in zip(missing, fresh, strict=False))
            return
        for sample in missing:
            given = teacher.sample(example, attempt, sample, self._seed, texts)
            if given is None:
                return
            texts.append(given[0].text)
            yield sample, *given


def _explain(
    path: pathlib.Path,
    examples: list[Example],
    done: dict[str, list[Update]],
    teacher: Teacher,
    generations: dict[str, str],
    num_updates: int,
    seed: int,
) -> str:
    """Asks for what is missing; what a teacher has said is on disk at once, or after a chunk where it costs nothing.

    Returns:
      What is odd about it, to be said at the end.
    """
    waiting = [example for example in examples if len(done.get(example.example_id, ())) < num_updates]
    chunk = _CHUNK if isinstance(teacher, OracleTeacher) else 1
    line = ProgressLine("distill", len(waiting))
    path.parent.mkdir(parents=True, exist_ok=True)
    asking, added = _Asking(path, teacher, num_updates, seed), 0
    for start in range(0, len(waiting), chunk):
        interrupt.check(f"{added} updates of this call are in {path}")
        part = waiting[start : start + chunk]
        updates = (
            u for e in part for u in asking.updates(e, generations.get(e.example_id), done.get(e.example_id, []))
        )
        # One by one, unless they cost nothing: an answer that was paid for is kept, whatever comes after it.
        for group in [list(updates)] if chunk > 1 else ([update] for update in updates):
            store.append(path, group)
            added += len(group)
        ended = min(start + chunk, len(waiting))
        if line.is_due() or ended == len(waiting):
            line.report(ended, 1, f"teacher {teacher.name}")
    return _odd(teacher)


def _odd(teacher: Teacher) -> str:
    """What came of requests that brought no explanation, or an odd one."""
    if not isinstance(teacher, SamplingTeacher) or not teacher.counts:
        return ""
    told = [f"{n} {kind}" + (f" ({s})" if (s := teacher.said.get(kind)) else "") for kind, n in teacher.counts.items()]
    return f"; of the answers: {', '.join(told)}"
