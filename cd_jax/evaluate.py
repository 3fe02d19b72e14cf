"""`cd_jax eval` and `cd_jax infer`: decode tasks with the best parameters of a run; no parameter changes here."""

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from typing import Any

import gin
import jax

from cd_jax import run
from cd_jax.checkpoints import Checkpoints, Progress
from cd_jax.errors import RequestError
from cd_jax.memory.episodic import EpisodicMemory
from cd_jax.process import SelfLearningProcess, tokenised
from cd_jax.ranges import PositiveInt
from cd_jax.report import results
from cd_jax.tasks import metrics
from cd_jax.tasks.com2sense import submission
from cd_jax.tasks.com2sense.reader import UNLABELLED
from cd_jax.types import Attempt, Example

_PACKAGES = ("cd_jax", "jax", "flax", "optax", "orbax-checkpoint", "seqio", "tensorflow", "scann")


class TrainedRun:
    """A run's best parameters, and its process and memory as training left them."""

    def __init__(self, model_dir: str):
        """Restores them.

        Raises:
          RequestError: there is no checkpoint, or it is not of the network that gin describes.
        """
        self.directory = pathlib.Path(model_dir)
        self._checkpoints = Checkpoints(self.directory, read_only=True)
        self.progress: Progress
        self.best_step, self.progress = self._checkpoints.best()
        self.steps = self._checkpoints.latest_step()
        self.agent: str = self.progress.identity["agent"]
        self._read_process()

    def _read_process(self) -> None:
        vocabulary = run.use_vocabulary(self.directory / "vocabulary.model")
        self.process: SelfLearningProcess = run.make_process(
            self.agent, vocabulary, lambda mesh: EpisodicMemory.load(self.directory / "memory", mesh=mesh)
        )
        solver = self.process.solver
        self._checkpoints.check_identity(self.progress.identity | {"network": solver.config.shape()})
        self.params = self._checkpoints.restore_params(self.best_step, solver.abstract_state().params)
        self._checkpoints.close()
        # The same keys as in memory/: the best parameters encode them.
        self.process.remember(self.params)

    def attempt(self, task: str, split: str, per_task: int | None) -> list[Attempt]:
        """Decodes a split of a task or mixture and writes `inference/<task>-<step>.jsonl`."""
        attempts = self.process.attempt(self.params, self.process.eval_feed(tokenised(task, split, per_task)))
        lines = [json.dumps(attempt.record(), ensure_ascii=False) + "\n" for attempt in attempts]
        results.write_text(self.inference_file(task, split), "".join(lines))
        return attempts

    def inference_file(self, task: str, split: str) -> pathlib.Path:
        """`inference/<task>-<step>.jsonl`; splits other than test have their name in it."""
        name = task if split == "test" else f"{task}_{split}"
        return self.directory / "inference" / f"{name}-{self.best_step}.jsonl"

    def attempt_prompt(self, prompt: str) -> Attempt:
        """Decodes a prompt that stands in no task."""
        asked = self.process.as_prompt(Example("", "", prompt, "", ""))
        return self.process.attempt(self.params, self.process.eval_feed(asked))[0]


def summary(task: str, attempts: list[Attempt]) -> dict[str, Any]:
    """`{"task", "accuracy", "n"}`, and whatever else of `metrics.example_scores` applies."""
    correct = [attempt.correct for attempt in attempts]
    return {"task": task, **metrics.example_scores([attempt.example for attempt in attempts], correct)}


def printed(entry: dict[str, Any]) -> str:
    """A `summary` in a few lines for a terminal."""
    found = [f"{entry['task']}: {_figures(entry)}"]
    if entry.get("unpaired"):
        found[0] += f"; {entry['unpaired']} of them without their pair, for the first figure only"
    for facet in ("domain", "scenario"):
        groups = entry.get(f"by_{facet}", {})
        if groups:
            found.append(f"  by {facet}: " + "; ".join(f"{name} {_figures(group)}" for name, group in groups.items()))
    if "by_task" in entry:
        found.append(
            f"  mean of {len(entry['by_task'])} tasks {entry['mean_task_accuracy']:.3f}, "
            f"at least {metrics.PASSED} on {entry['tasks_at_95']}"
        )
    return "\n".join(found)


def _figures(scores: dict[str, Any]) -> str:
    pairwise = f", pairwise {scores['pairwise_accuracy']:.3f}" if "pairwise_accuracy" in scores else ""
    return f"accuracy {scores['accuracy']:.3f}{pairwise} (n={scores['n']})"


@gin.configurable
def evaluate(
    model_dir: str,
    source: str,
    targets: list[str],
    split: str = "test",
    per_task: PositiveInt | None = None,
    source_per_task: PositiveInt | None = None,
) -> dict[str, Any]:
    """Decodes held-out source questions and the targets, on which nothing was fine-tuned; writes `results.json`.

    Args:
      model_dir: of a trained run.
      source: task or mixture that it was trained on.
      targets: tasks or mixtures that it was not.
      split: of all of them; not `unlabelled`.
      per_task: examples of each task of the targets; None takes all.
      source_per_task: the same of the source.

    Returns:
      What stands in `results.json`.

    Raises:
      RequestError: no checkpoint, no such task, data that is missing or malformed, or a split without labels.
    """
    if split == UNLABELLED:
        raise RequestError(f"split {split!r} has no answers to score; decode it with `cd_jax infer`")
    trained = TrainedRun(model_dir)
    summaries = []
    for task, size in ((source, source_per_task), *((target, per_task) for target in targets)):
        summaries.append(summary(task, trained.attempt(task, split, size)))
        print(f"[{trained.agent}] {printed(summaries[-1])}", flush=True)
    seed = trained.progress.identity["seed"]
    entry = {
        "agent": trained.agent,
        "seed": seed,
        "source": summaries[0],
        "targets": summaries[1:],
        "steps": trained.steps,
        "best_step": trained.best_step,
        "stopped_by": trained.progress.stopped_by,
        "train_seconds": round(trained.progress.train_seconds, 1),
    }
    written = {"meta": meta([seed]), "runs": [entry]}
    results.write_json(trained.directory / "results.json", written)
    return written


@gin.configurable
def infer(
    model_dir: str,
    task: str | None = None,
    split: str = "test",
    per_task: PositiveInt | None = None,
    prompt: str = "",
):
    """Decodes a task, or one prompt, and prints or writes what the solver says.

    Args:
      model_dir: of a trained run.
      task: task or mixture; goes to `inference/<task>-<step>.jsonl`.
      split: of the task; beside all generations of `unlabelled`, the submission file is written.
      per_task: examples of each task; None takes all.
      prompt: a context and question instead of a task.

    Raises:
      RequestError: neither or both are given, or `evaluate`'s.
    """
    if bool(task) == bool(prompt):
        raise RequestError("infer wants one of --prompt='…' and --gin.TASK=\"'name'\"")
    trained = TrainedRun(model_dir)
    if task:
        attempts = trained.attempt(task, split, per_task)
        print(f"{len(attempts)} generations in {trained.inference_file(task, split)}")
        if split == UNLABELLED and per_task is None:
            print(write_submission(trained.inference_file(task, split), attempts))
        return
    attempt = trained.attempt_prompt(prompt)
    for found in attempt.retrieved:
        by = f"{found['query']}, distance {found['distance']}, attention {found['attention']}"
        print(f"retrieved ({by}): {found['update']}")
    print(f"generation: {attempt.generation}\nanswer: {attempt.prediction}")


def write_submission(inference_file: pathlib.Path, attempts: list[Attempt]) -> str:
    """Writes the labels that are handed in for the unlabelled split.

    Args:
      inference_file: the file is written beside it, with the suffix `.submission.json`.
      attempts: at the statements of the split.

    Returns:
      A line that says what was written, and how many labels stand for no answer.
    """
    predictions = [attempt.prediction for attempt in attempts]
    labels, unanswered = submission.submission([attempt.example for attempt in attempts], predictions)
    path = inference_file.with_suffix(".submission.json")
    results.write_json(path, labels)
    said = f"{unanswered} generations said neither yes nor no, which is labelled {submission.DEFAULT_LABEL}"
    return f"{len(labels)} labels in {path} ({said})"


def meta(seeds: list[int]) -> dict[str, Any]:
    """Versions, seeds, commit and hardware, for `results.json`."""
    devices = jax.devices()
    cores = f"{len(devices)} x {devices[0].device_kind}, {platform.machine()} host of {os.cpu_count()} cores"
    installed = {package.name for package in importlib.metadata.distributions()}
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES if name in installed}
    return {"versions": versions, "seeds": seeds, "commit": _commit(), "hardware": cores}


def _commit() -> str:
    """Of the checkout that runs; empty where the package is installed without one."""
    folder = pathlib.Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
