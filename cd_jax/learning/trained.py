"""A trained run, to be asked: its best parameters, with the memory of their round."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath
from jax.sharding import Mesh

from cd_jax.errors import RequestError
from cd_jax.feed.tokens import tokenised
from cd_jax.learning import attempting, compose, judging
from cd_jax.learning.likelihood import Likelihood
from cd_jax.learning.loop import memory_of
from cd_jax.memory import told
from cd_jax.memory.episodic import EpisodicMemory
from cd_jax.rundir import attempts as attempts_file
from cd_jax.rundir import interrupt, measures, results, scores
from cd_jax.rundir.checkpoints import Checkpoints, Progress
from cd_jax.tasks import Sample, own
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.types import Attempt, Example, Update

# Times that a reader goes after a run that saves faster than it reads.
_READER_TRIES = 20


class TrainedWeights:
    """A run's best parameters of a round.

    Attributes:
      directory: model_dir of the run.
      progress: of the run.
      round: of the self-learning process whose parameters these are.
      steps: of the run, so far.
      solver: whose parameters they are.
      params: the parameters.
      best_step: of these.
      vocabulary: of the run.
    """

    def __init__(self, model_dir: str, number: int | None = None):
        """Restores them.

        Args:
          model_dir: of the run.
          number: of the round; None: the last one that was evaluated.

        Raises:
          RequestError: there is no checkpoint, or it is not of the network that gin describes.
        """
        self.directory, self._asked = epath.Path(model_dir), number
        for tries_left in reversed(range(_READER_TRIES)):
            try:
                self._read()
                return
            except RequestError:
                # A run that trains meanwhile may have replaced what was being read.
                if not tries_left or not self._checkpoints.was_replaced():
                    raise

    def _read(self) -> None:
        self._checkpoints = Checkpoints(self.directory, read_only=True)
        self.progress: Progress
        _, self.progress = self._checkpoints.best()
        self.steps = self._checkpoints.latest_step()
        self.agent: str = self.progress.identity.get("agent", "")
        self.round = self.progress.last_evaluated() if self._asked is None else self._asked
        path = self.directory / compose.VOCABULARY
        self.vocabulary = vocabularies.load(path)
        compose.check_vocabulary(path, self.progress.identity)
        self.solver = compose.make_solver(vocabularies.padded_size(self.vocabulary))
        self._checkpoints.check_identity(self.progress.identity | {"network": self.solver.config.shape()})
        self.best_step, self.params = self._checkpoints.restore_best(self.solver.abstract_state().params, self._asked)
        self._checkpoints.close()


class TrainedRun(TrainedWeights):
    """A run with its best parameters and the memory of their round, to be asked.

    Attributes:
      catalogue: of the tasks.
      memory_dir: where its memory is.
      student: that answers.
    """

    def __init__(self, model_dir: str, number: int | None = None):
        """As `TrainedWeights`; raises RequestError also where its memory is damaged."""
        super().__init__(model_dir, number)
        self.catalogue = compose.catalogue()
        self.memory_dir = self.directory / results.MEMORY
        if self.round != self.progress.last_evaluated():
            self.memory_dir = memory_of(self.directory, self.round)
        self.student = compose.make_student(
            compose.make_agent(self.agent), self.vocabulary, self._load_memory, solver=self.solver
        )
        self.student.refresh(self.params)

    def _load_memory(self, mesh: Mesh) -> EpisodicMemory:
        memory = EpisodicMemory.load(self.memory_dir, mesh=mesh)
        memory.check_enough()
        return memory

    # What it answers

    def attempt(self, task: str, split: str, sample: Sample) -> list[Attempt]:
        """Decodes a split of a task or mixture and writes `inference/<task>-<step>.jsonl`."""
        asked = tokenised(self.catalogue, self.vocabulary, task, split, sample.per_task, sample.seed)
        feed = self.student.eval_feed(asked)
        self.truncated = feed.truncated
        attempts = self.student.attempt(self.params, feed, between=interrupt.check)
        attempts_file.write(self.inference_file(task, split), attempts)
        return attempts

    @property
    def parameters(self) -> str | None:
        """Digest of its parameters; None where it was imported, or is of before there were digests."""
        return self.progress.parameters.get(str(self.best_step))

    @property
    def source(self) -> str:
        """The task or mixture that it was trained on. Raises RequestError where that is not known."""
        source = self.progress.identity.get("source")
        if not source:
            raise RequestError(f"{self.directory}: was trained on no task that is known here; train it on one")
        return source

    def likelihood(self) -> Likelihood:
        """How likely it finds answers; see `Student.likelihood`."""
        return self.student.likelihood(self.params)

    def judge(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """How probable it is that answers are right, as the run itself has it: no label is needed.

        The run answers every prompt, too: what it says and retrieves on the way stands before the answers.

        Args:
          prompts: contexts and questions, at least one.
          answers: one for each prompt, whoever gave it.

        Returns:
          Probabilities, calibrated on the source's validation split.

        Raises:
          RequestError: no verifier was learnt with these parameters, see `cd_jax eval --gin.CALIBRATION=True`.
          ValueError: they are no texts, or there are not as many answers as prompts.
        """
        for name, texts in (("prompts", prompts), ("answers", answers)):
            if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
                raise ValueError(f"judge: {name} must be a list of texts")
        if len(prompts) != len(answers):
            raise ValueError(
                f"judge: {len(prompts)} prompts and {len(answers)} answers; give one answer for each prompt"
            )
        if not prompts:
            return []
        verifier = measures.read_verifier(self.directory, self.best_step, self.parameters)
        asked = [Example(str(i), "", prompt, "", "") for i, prompt in enumerate(prompts)]
        tokens = self.student.as_prompt(*asked)
        own = [one for one in self.student.attempt(self.params, self.student.eval_feed(tokens)) if one.sample == 0]
        given = [dataclasses.replace(one, prediction=answer) for one, answer in zip(own, answers, strict=True)]
        found = judging.probabilities(verifier, judging.evidence(self.likelihood(), given))
        return found[verifier.best].tolist()

    def setting(self) -> dict[str, Any]:
        """Of which parameters its answers are, and how they are found: what tells a score from others."""
        decoding, memory = self.student.decoding, memory_settings(self.student.settings())
        if memory and told.was_changed(self.memory_dir):
            memory |= {"entries": told.fingerprint(self.student.memory)}
        trained = memory_settings(self.progress.identity.get("process", {}))
        return {
            "step": self.best_step,
            "parameters": self.parameters,
            "decoding": dataclasses.asdict(decoding),
            "memory": memory,
            "setting": scores.setting(decoding, memory, trained),
        }

    def inference_file(self, task: str, split: str) -> epath.Path:
        """Where `attempt` writes."""
        return attempting.file_of(self.directory, task, split, self.best_step)

    def retrieved(self) -> dict[str, int]:
        """How much of its memory was retrieved in training; nothing where it has none."""
        memory = self.student.memory
        return {"retrieved": int((memory.used[memory.rows()] > 0).sum())} if memory else {}

    # What it is told, without a gradient step

    def remember(self, told: Iterable[Mapping[str, Any]], task: str = "told") -> int:
        """Takes explained examples into memory, until `save_memory` for as long as this object lives.

        Args:
          told: `{"prompt", "answer", "explanation"}`, as a line of `--task_jsonl`; the explanation is a text, a list of
            them, or left out.
          task: under which `forget` finds them.

        Returns:
          How many entries stayed.

        Raises:
          RequestError: the run has no memory, or one of them is malformed.
        """
        examples = own.examples_of(told, task)
        updates = {
            one.example_id: [
                Update(one.example_id, task, text, "told", "", sample, 0)
                for sample, text in enumerate(one.explanations)
            ]
            for one in examples
        }
        return self.remember_examples(examples, updates)

    def remember_examples(self, examples: Sequence[Example], updates: Mapping[str, Sequence[Update]]) -> int:
        """As `remember`, of examples and what explains them, by `example_id`."""
        self._check_memory()
        stayed = self.student.remember(examples, updates, 0)
        self.student.refresh(self.params)
        return stayed

    def forget(self, name: str) -> int:
        """Takes out of memory what it holds of a task, or of the tasks of a mixture.

        Returns:
          How many entries that were.

        Raises:
          RequestError: it holds none of it.
        """
        memory = self._check_memory()
        tasks = {name}
        if name in self.catalogue.names():
            # Examples of a low-data task bear the name of the whole one.
            tasks |= {example.task for example in self.catalogue.examples(name, self.catalogue.splits(name)[0])}
        held = [(row, memory.entries[row]) for row in memory.rows()]
        rows = [row for row, entry in held if entry and entry.task in tasks]
        if not rows:
            there = ", ".join(sorted({entry.task for _, entry in held if entry}))
            raise RequestError(f"{self.memory_dir}: holds nothing of {name!r}, but of {there}; name one of these")
        memory.remove(rows)
        memory.check_enough()
        self.student.retabulate()
        self.student.refresh(self.params)
        return len(rows)

    def save_memory(self) -> None:
        """Writes the memory, for whoever loads the run from now on; what training left is kept beside it."""
        self._check_memory()
        told.keep_trained(self.memory_dir)
        self.student.save_memory(self.memory_dir)

    def _check_memory(self) -> EpisodicMemory:
        if self.student.memory is None:
            raise RequestError(
                f"{self.directory}: the agent {self.agent!r} has no memory; take one that binds Agent.value"
            )
        return self.student.memory

    def ask(self, prompt: str) -> Attempt:
        """Decodes a prompt that stands in no task; `Attempt.prediction` is the answer."""
        asked = self.student.as_prompt(Example("", "", prompt, "", ""))
        return self.student.attempt(self.params, self.student.eval_feed(asked))[0]


def memory_settings(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Of a process's settings those that decide what memory gives; None where there is none."""
    memory = settings.get("memory")
    return memory and {name: settings[name] for name in ("num_queries", "num_axes")} | memory
