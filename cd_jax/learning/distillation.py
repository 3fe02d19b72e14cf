"""`cd_jax distill`: a teacher explains the source examples; the vocabulary is made from what there is to read."""

from collections.abc import Callable, Mapping, Sequence

import gin
from etils import epath

from cd_jax.config.ranges import PositiveInt, Seed
from cd_jax.errors import RequestError, RunError
from cd_jax.feed import formats
from cd_jax.learning import attempting, batches, cleaning, extending
from cd_jax.learning.compose import VOCABULARY, catalogue
from cd_jax.rundir import files, lock, requests
from cd_jax.rundir import updates as store
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.types import Attempt, Example, Update
from cd_jax.update.filters.filter import Filter
from cd_jax.update.policies.explanations import Explanations
from cd_jax.update.policy import Asked, UpdatePolicy
from cd_jax.update.teachers.oracle import OracleTeacher
from cd_jax.update.teachers.teacher import Teacher
from cd_jax.weights import sources

# Texts that every vocabulary must spell: the ordinals of passages and the answer's marker.
_ALWAYS = "1: 2: 3: 4: 5: 6: 7: 8: 9: answer: yes no"


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
    filters: Sequence[Filter] = (),
    batch: batches.Batch | None = None,
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
      filters: see `update.filters`; what they reject is kept in `rejected.jsonl` and is not asked for again.
      batch: what is done in place of asking; not for gin.

    Raises:
      RequestError: data, attempts or updates that are there are missing or malformed.
      RunError: there is no explanation at all, or the teacher cannot be asked.
    """
    with lock.exclusive(model_dir, "distill"):
        tasks = catalogue()
        examples = tasks.examples(source, "train")
        texts = []
        for name in (source, *targets):
            texts += [example.prompt for example in tasks.examples(name, "train")]
            # Read for their errors alone: a malformed line is to show now, and not when training is over.
            for split in tasks.splits(name):
                tasks.examples(name, split)
        shown = attempting.read(epath.Path(attempts), examples) if attempts else {}
        wanted = sources.vocabulary(vocabulary) if vocabulary else None  # For its errors, before a teacher is paid.
        path, kept = epath.Path(model_dir) / store.NAME, epath.Path(model_dir) / VOCABULARY
        done = store.read_grouped(path) if path.exists() else {}
        policy = Explanations(teacher, num_updates, seed) if teacher else None
        _check_same(path, examples, done, policy)
        _check_vocabulary(kept, wanted, vocabulary)
        if not _explain(path, policy, examples, shown, filters, batch):
            return
        updates = _written(path, examples, policy)
        if not kept.exists():
            texts += [formats.answer(example.answer) for example in examples] + [update.update for update in updates]
            files.write_bytes(kept, wanted or vocabularies.train([_ALWAYS, *dict.fromkeys(texts)], vocabulary_size))


def _explain(
    path: epath.Path,
    policy: Explanations | None,
    examples: Sequence[Example],
    shown: Mapping[str, Sequence[Attempt]],
    filters: Sequence[Filter],
    batch: batches.Batch | None,
) -> bool:
    """Has the updates written, and cleaned; whether all that can be had are there."""
    outdated = _outdated(policy, examples, shown) if policy else _nothing
    if policy and not (batch and batch.estimate):
        _drop(path, outdated)
    if policy and not batch:
        extending.extend(path, policy, examples, shown, filters=filters)
        return True
    if batch:
        asked = [Asked(example, shown.get(example.example_id, ())) for example in examples]
        if policy and batch.pipeline is None:
            asked = extending.lacking(path, policy, examples, shown, ignored=outdated)
        if not batches.run(batch, policy, asked, filters, path):
            return False
        batches.put_in_order(path, examples)
    cleaning.apply(path, examples, filters)
    return True


def _written(path: epath.Path, examples: Sequence[Example], policy: Explanations | None) -> list[Update]:
    """The updates in the file, of which it is told. Raises RunError where there are none."""
    updates = store.read(path) if path.exists() else []
    told = policy.odd() if policy else ""
    if not updates:
        said = cleaning.said(path)
        filtered = f", and {len(said)} were filtered out ({store.REJECTED})" if said else ""
        mend = "mend the teacher or the filters" if said else "mend the teacher"
        raise RunError(f"{path}: there is no explanation of {len(examples)} examples{filtered}{told}; {mend}")
    print(f"[distill] {len(updates)} updates of {len(examples)} examples in {path}{told}", flush=True)
    return updates


def _nothing(update: Update) -> bool:
    return False


def _outdated(
    policy: Explanations, examples: Sequence[Example], shown: Mapping[str, Sequence[Attempt]]
) -> Callable[[Update], bool]:
    """Whether an update answers something else than is asked now."""
    asked = {one.example_id: Asked(one, shown.get(one.example_id, ())) for one in examples}

    def outdated(update: Update) -> bool:
        one = asked.get(update.example_id)
        return one is not None and not update.round and policy.is_outdated(one, update)

    return outdated


def _drop(path: epath.Path, outdated: Callable[[Update], bool]) -> None:
    """Takes out what is outdated; the answers stay in the journal.

    Raises:
      RequestError: there is no journal, so that what was paid for would be lost.
    """
    if not any(map(outdated, cleaning.said(path))):
        return
    if not (path.parent / requests.NAME).exists():
        raise RequestError(f"{path}: holds updates of another prompt or setting; choose another --model_dir")
    said = f"are of another prompt or setting and are made anew; their answers stay in {requests.NAME}"
    print(f"[distill] {cleaning.drop(path, outdated)} updates {said}", flush=True)


def _check_vocabulary(kept: epath.Path, wanted: bytes | None, where: str | None) -> None:
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
    path: epath.Path, examples: list[Example], done: dict[str, list[Update]], policy: UpdatePolicy | None
) -> None:
    """Updates of another source, seed or teacher must not be mixed with these."""
    strangers = done.keys() - {example.example_id for example in examples}
    if strangers:
        raise RequestError(
            f"{path}: holds updates of example {min(strangers)!r}, which the source does not have; "
            "choose another --model_dir"
        )
    if policy is None:
        return  # Whoever wrote them: nobody adds to them.
    seeds = {update.seed for group in done.values() for update in group} - {policy.seed}
    teachers = {update.teacher for group in done.values() for update in group} - {policy.name}
    if teachers:
        raise RequestError(
            f"{path}: holds updates of the teacher {min(teachers)!r}; choose another --model_dir, or add none to them: "
            "--gin.distill.teacher=None"
        )
    if seeds:
        raise RequestError(f"{path}: holds updates of seed {min(seeds)}; choose another --model_dir")
