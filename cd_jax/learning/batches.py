"""What `cd_jax distill` does with a teacher in place of asking it: an estimate, and batch files, out and in."""

import dataclasses
from collections.abc import Sequence

from etils import epath

from cd_jax.errors import RequestError
from cd_jax.rundir import journal
from cd_jax.rundir import requests as requests_file
from cd_jax.rundir import updates as store
from cd_jax.rundir.requests import Requests, Tokens
from cd_jax.types import Example
from cd_jax.update import pipeline
from cd_jax.update.filters.filter import Filter
from cd_jax.update.policies.explanations import Estimate, Explanations
from cd_jax.update.policy import Asked
from cd_jax.update.teachers import batch as batch_files
from cd_jax.update.teachers.teacher import AskedTeacher

_LONGEST = 200  # characters of what a server said


@dataclasses.dataclass(frozen=True)
class Batch:
    """What is to be done; several go in this order.

    Attributes:
      imported: files of answers, which are taken into the journal.
      estimate: says what is still to be asked.
      exported: folder that the requests are written into.
      pipeline: folder that a pipeline writes the updates into, in shards.
      pipeline_options: of Beam.
    """

    imported: Sequence[str] = ()
    estimate: bool = False
    exported: str | None = None
    pipeline: str | None = None
    pipeline_options: Sequence[str] = ()

    @property
    def is_asked_for(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.imported or self.estimate or self.exported is not None or self.pipeline is not None)


def run(
    batch: Batch,
    policy: Explanations | None,
    waiting: Sequence[Asked],
    filters: Sequence[Filter],
    path: epath.Path,
) -> bool:
    """Does it.

    Args:
      batch: what.
      policy: of the teacher.
      waiting: the examples that lack updates.
      filters: of what a pipeline writes.
      path: of the updates.

    Returns:
      Whether all updates that can be had are there.

    Raises:
      RequestError: the teacher is none that is asked, or a file of answers cannot be read.
      RunError: a file cannot be written.
    """
    teacher = policy.asked_teacher if policy else None
    if policy is None or teacher is None:
        raise RequestError(
            "this teacher sends no requests: give --gin.distill.teacher=@OpenAITeacher, or leave out --estimate, "
            "--export_batch, --import_batch and --pipeline"
        )
    requests = Requests(path.parent)
    if batch.imported:
        _import(batch.imported, teacher, requests)
    if batch.estimate:
        _tell(policy, teacher, waiting, requests)
    if batch.exported is not None:
        _export(batch.exported, policy, teacher, waiting, requests)
    if batch.pipeline is not None:
        pipeline.run(
            policy, waiting, filters, str(path.parent / requests_file.NAME), batch.pipeline, batch.pipeline_options
        )
        return False
    return bool(batch.imported) and batch.exported is None and _derive(policy, waiting, requests, path)


def _import(names: Sequence[str], teacher: AskedTeacher, requests: Requests) -> None:
    read = [batch_files.read(name, teacher.read_body) for name in names]  # All of them, before anything is written.
    for name, (answers, failed) in zip(names, read, strict=True):
        fresh = len(answers.keys() - requests.answers.keys())
        requests.take(answers)
        said = f"; {len(failed)} requests failed, the last with {failed[-1][:_LONGEST]}" if failed else ""
        print(f"[distill] {name}: {len(answers)} answers, {fresh} of them new{said}", flush=True)
    requests.close()


def _tell(policy: Explanations, teacher: AskedTeacher, waiting: Sequence[Asked], requests: Requests) -> None:
    estimate, budget = policy.estimate(waiting, 0, requests.answers), teacher.budget
    told = budget.told(estimate.requests, estimate.tokens)
    most = budget.told(estimate.most_requests, estimate.most_tokens)
    more = f"; if every answer must be asked for again as often as it may, {most}"
    passed = _passed(teacher, requests, estimate)
    room = f"; that may pass the budget of {passed}" if passed else ""
    print(f"[distill] {len(waiting)} examples want updates: {told}, at most{more}{room}", flush=True)


def _passed(teacher: AskedTeacher, requests: Requests, more: Estimate) -> str:
    """The bound of the budget that so much more may pass; empty where there is none."""
    spent = requests.tokens
    total = Tokens(spent.prompt + more.tokens.prompt, spent.answer + more.tokens.answer)
    return teacher.budget.passed(requests.requests + more.requests, total)


def _export(
    folder: str, policy: Explanations, teacher: AskedTeacher, waiting: Sequence[Asked], requests: Requests
) -> None:
    estimate = policy.estimate(waiting, 0, requests.answers)
    if passed := _passed(teacher, requests, estimate):
        asked = f"{estimate.requests} requests may pass the budget of {passed}"
        raise RequestError(f"{asked}: raise it, bound OpenAITeacher.max_tokens, or explain fewer examples")
    wanted = [request for _, _, missing in policy.replay(waiting, 0, requests.answers) for request in missing]
    number, of_files = batch_files.write(folder, wanted, teacher.body)
    print(f"[distill] {number} requests in {of_files} batch files in {folder}", flush=True)


def _derive(policy: Explanations, waiting: Sequence[Asked], requests: Requests, path: epath.Path) -> bool:
    """Writes the updates of the examples whose answers are all there; whether these are all examples."""
    missing, fresh = 0, []
    for _, updates, wanted in policy.replay(waiting, 0, requests.answers):
        missing += len(wanted)
        fresh += updates
    if fresh:
        store.append(path, fresh)
    if missing:
        print(
            f"[distill] {missing} requests are still to be answered: give --export_batch for them, or ask them without "
            "--import_batch",
            flush=True,
        )
    return not missing


def put_in_order(path: epath.Path, examples: Sequence[Example]) -> None:
    """Gives the updates in the file the order in which an endpoint would have been asked for them: batches may come one
    after the other."""
    updates = store.read(path) if path.exists() else []
    place = {example.example_id: number for number, example in enumerate(examples)}
    ordered = sorted(updates, key=lambda one: (one.round, place[one.example_id], one.sample))
    if ordered != updates:
        journal.write(path, map(store.record, ordered))
