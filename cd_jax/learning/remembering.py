"""`cd_jax remember`: a trained agent is told explained examples of a new task, without a gradient step."""

import gin

from cd_jax.config.ranges import PositiveInt, Seed
from cd_jax.errors import RequestError
from cd_jax.learning import extending
from cd_jax.learning.trained import TrainedRun
from cd_jax.rundir import lock
from cd_jax.rundir import updates as store
from cd_jax.tasks import Sample
from cd_jax.types import Example, Update


@gin.configurable
def remember(
    model_dir: str,
    source: str | None = None,
    split: str = "train",
    per_task: PositiveInt | None = 100,
    sample_seed: Seed = 0,
    distilled: str | None = None,
    forget: str | None = None,
) -> None:
    """Takes explained examples into the memory of a trained run, and takes others out; `eval` and `infer` read what is
    there then. No parameter changes (protocol class T1: explained target examples, and no label in training).

    Args:
      model_dir: of a trained run whose agent has a memory.
      source: task or mixture whose examples are remembered; None: nothing is.
      split: of it.
      per_task: examples of each task, drawn by `sample_seed` (see `tasks.Sample`); None takes all.
      sample_seed: of the sample.
      distilled: folder with the `updates.jsonl` of `cd_jax distill` that explain them; None has the agent's update
        policy explain them, which it writes to `memory/updates.jsonl`.
      forget: task or mixture that is taken out, before anything is taken in.

    Raises:
      RequestError: there is no run, it has no memory, holds nothing of what is to be forgotten, or neither is asked.
      RunError: it cannot be written, or the policy cannot be asked.
    """
    if source is None and forget is None:
        raise RequestError(
            "remember wants --gin.SOURCE=\"'task'\" to take in, --gin.remember.forget=\"'task'\" to take out, or both"
        )
    with lock.exclusive(model_dir, "remember"):
        trained = TrainedRun(model_dir)
        said = []
        if forget is not None:
            said.append(f"{trained.forget(forget)} entries of {forget} forgotten")
        if source is not None:
            examples = trained.catalogue.examples(source, split, *_sampled(per_task, sample_seed))
            stayed = trained.remember_examples(examples, _explained(trained, examples, distilled))
            said.append(f"{stayed} entries of {len(examples)} examples of {source} remembered")
        trained.save_memory()
        memory = trained.student.memory
        assert memory
        print(f"{'; '.join(said)}; {trained.memory_dir} holds {len(memory.rows())} of {memory.capacity}")


def _sampled(per_task: int | None, seed: int) -> tuple[int | None, int]:
    Sample(per_task, seed)  # For its errors.
    return per_task, seed


def _explained(trained: TrainedRun, examples: list[Example], distilled: str | None) -> dict[str, list[Update]]:
    """What explains the examples, by `example_id`; nothing where the agent reads no updates.

    Raises:
      RequestError: there is nothing.
    """
    agent = trained.student.agent
    if agent.update is None:
        return {}
    if distilled is not None:
        found = store.read_grouped(f"{distilled}/{store.NAME}")
    else:
        path = trained.memory_dir / store.NAME
        found = {}
        for update in extending.extend(path, agent.update(), examples, {}):
            found.setdefault(update.example_id, []).append(update)
    explained = {one.example_id: found[one.example_id] for one in examples if one.example_id in found}
    if not explained:
        raise RequestError(f"no update explains an example of {examples[0].task}; run `cd_jax distill` on it")
    return explained
