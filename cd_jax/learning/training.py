"""`cd_jax train`: composes a run of the self-learning process and goes through its rounds."""

import gin

from cd_jax.config.ranges import PositiveInt, Seed
from cd_jax.errors import RequestError
from cd_jax.feed.tokens import tokenised
from cd_jax.learning import compose
from cd_jax.learning.ledger import Ledger
from cd_jax.learning.loop import SelfLearning
from cd_jax.learning.student import Student
from cd_jax.learning.trainer import Budget, Periods, Trainer
from cd_jax.rundir import files, lock
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.weights import sources


@gin.configurable
def train(
    model_dir: str,
    agent: str,
    source: str,
    seed: Seed,
    batch_size: PositiveInt,
    budget: Budget,
    arm: str = "",
    distilled: str | None = None,
    initial_checkpoint: str | None = None,
    eval_period: PositiveInt = 200,
    eval_per_task: PositiveInt | None = None,
    log_period: PositiveInt = 50,
    check_only: bool = False,
) -> None:
    """Trains until the validation error stops improving or the budget ends; goes on where an earlier call was stopped.

    Args:
      model_dir: where everything about this run is written.
      agent: its name; what it is stands in `gin/agents/NAME.gin`.
      source: task or mixture.
      seed: of the parameters, of the order of the examples, and of every draw.
      batch_size: examples a step, over all hosts.
      budget: when it ends.
      arm: name of the arm of an experiment that the run belongs to; empty: the agent's.
      distilled: folder with the `updates.jsonl` and `vocabulary.model` of `cd_jax distill`; None looks in `model_dir`.
      initial_checkpoint: a run, an imported model, a folder of Hugging Face's or a checkpoint of T5X's, whose (best)
        parameters this run starts from (T5X's INITIAL_CHECKPOINT_PATH); None starts from random ones.
      eval_period: steps between evaluations on the validation split; each is also saved.
      eval_per_task: validation examples of each task; None takes all.
      log_period: steps between lines of progress and metrics; divides `eval_period`.
      check_only: reads everything, for the errors, and trains nothing.

    Raises:
      RequestError: the data, bindings or checkpoint do not fit; nothing was written.
      RunError: the loss is not a number.
    """
    periods = Periods(eval_period, log_period)
    with lock.exclusive(model_dir, "train"):
        policies = compose.make_agent(agent)
        vocabulary_path, updates = compose.distilled_files(distilled or model_dir, policies)
        vocabulary, catalogue = vocabularies.load(vocabulary_path), compose.catalogue()
        examples = tokenised(catalogue, vocabulary, source, "train")
        validation = tokenised(catalogue, vocabulary, source, "validation", eval_per_task)
        if policies.update is not None:
            compose.check_explained(distilled or model_dir, examples.examples, updates)
        student = compose.make_student(policies, vocabulary)
        identity = {
            "agent": agent,
            "source": source,
            "seed": seed,
            "batch_size": student.check_batch_size("batch_size", batch_size),
            "network": student.solver.config.shape(),
            "solver": student.solver.settings(),
            "initial_checkpoint": files.address(initial_checkpoint) if initial_checkpoint else None,
            "optimizer": student.solver.optimizer_name,
            "process": student.settings(),
            "updates": compose.digest(repr(updates).encode()),
            "vocabulary": compose.digest(vocabulary_path.read_bytes()),
            "source_examples": compose.digest("".join(map(repr, examples.examples)).encode()),
        }
        written = sum(map(len, updates.values()))
        trained_on = {"task": source, "examples": len(examples.examples), "updates": written}
        ledger = Ledger(model_dir, arm or agent, identity, trained_on, vocabulary_path)
        initial = None
        if initial_checkpoint and not ledger.resumed:
            initial = _read_initial(initial_checkpoint, student, vocabulary_path)
        proposal = policies.proposal(len(examples.examples), batch_size, seed)
        trainer = Trainer(student, ledger, examples, validation, proposal, budget, periods)
        learning = SelfLearning(policies, student, trainer, ledger, examples, source, seed)
        every = [update for group in updates.values() for update in group]
        if check_only:
            learning.check(every)
            return
        try:
            learning.learn(ledger.start(student.solver, seed, initial), every)
        finally:
            # Whatever happened: what is on its way to the disk must arrive.
            ledger.close()


def _read_initial(folder: str, student: Student, vocabulary_path):
    """The parameters to start from, on the mesh.

    Raises:
      RequestError: there are none, or they are of another network or another vocabulary.
    """
    found, solver = sources.recognise(folder), student.solver
    vocabulary = vocabulary_path.read_bytes()
    if found.vocabulary() != vocabulary:
        raise RequestError(
            f"{vocabulary_path}: is not the vocabulary of {folder}; "
            f"distill into another --model_dir with --gin.distill.vocabulary=\"'{folder}'\""
        )
    found.check_pieces(vocabulary, vocabulary_path, folder)
    found.check_network(solver.config.shape(), folder)
    return found.read(solver.abstract_state().params)
