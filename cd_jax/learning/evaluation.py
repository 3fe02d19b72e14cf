"""`cd_jax eval` and `cd_jax infer`: decode tasks with the best parameters of a run; no parameter changes here."""

import dataclasses
import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import gin
import jax
from etils import epath

from cd_jax.config.macros import resolved
from cd_jax.config.ranges import PositiveInt, Seed
from cd_jax.errors import RequestError
from cd_jax.feed.lessons import answer_alone
from cd_jax.feed.tokens import tokenised
from cd_jax.learning import compose
from cd_jax.learning.agent import Agent
from cd_jax.learning.measuring import Measures, measured
from cd_jax.learning.trained import TrainedRun, memory_settings
from cd_jax.rundir import files, hosts, interrupt, lock, results, scores
from cd_jax.rundir.checkpoints import Checkpoints
from cd_jax.solver.decoding import Decoding
from cd_jax.tasks import Sample, metrics
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.tasks.com2sense import submission
from cd_jax.tasks.com2sense.reader import UNLABELLED
from cd_jax.types import Attempt

_PACKAGES = ("cd_jax", "jax", "flax", "optax", "orbax-checkpoint", "seqio", "tensorflow", "scann")


def summary(task: str, attempts: list[Attempt]) -> dict[str, Any]:
    """`{"task", "accuracy", "n"}`, and whatever else of `metrics.example_scores` applies; of several attempts at an
    example the first one counts."""
    first = [attempt for attempt in attempts if attempt.sample == 0]
    return {"task": task, **metrics.example_scores([one.example for one in first], [one.correct for one in first])}


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
    sample_seed: Seed = 0,
    only_missing: bool = False,
    calibration: bool = False,
    gain_pairs: PositiveInt | None = None,
) -> dict[str, Any]:
    """Decodes held-out source questions and the targets, on which nothing was fine-tuned; adds to `results.json`.

    Args:
      model_dir: of a trained run.
      source: task or mixture that it was trained on.
      targets: tasks or mixtures that it was not.
      split: of all of them; not `unlabelled`.
      per_task: examples of each task of the targets, drawn by `sample_seed` (see `tasks.Sample`); None takes all.
      source_per_task: the same of the source.
      sample_seed: of the samples; whoever asks for the same gets the same examples.
      only_missing: leaves out what `results.json` says of the run's best parameters already.
      calibration: measures how well the run's own probabilities tell right answers from wrong ones, for which it learns
        a verifier where it has none (see `judging`, `Judging`).
      gain_pairs: examples with an update, at most, of which the information gain is measured, for each way of choosing
        updates (see `gain`); None: it is not.

    Returns:
      What stands in `results.json`: the scores of before, and these, see `report.scores`.

    Raises:
      RequestError: no checkpoint, no such task, data that is missing or malformed, or a split without labels.
    """
    _check_split(split)
    measures = Measures(calibration, gain_pairs, sample_seed)
    samples = [("source", source, Sample(source_per_task, sample_seed))]
    samples += [("target", target, Sample(per_task, sample_seed)) for target in targets]
    asked = [{"role": role, "task": t, "split": split, "sample": s.record()} for role, t, s in samples]
    _known(model_dir)  # A damaged file is told before anything is decoded.
    for number in _rounds(model_dir):
        wanted = _missing(model_dir, number, asked, measures) if only_missing else asked
        if wanted:
            _evaluate_round(TrainedRun(model_dir, number), wanted, measures)
    return results.read_results(model_dir)


def _rounds(model_dir: str | epath.Path) -> list[int]:
    """Numbers of the rounds that were evaluated in training, so that there are parameters of each; of a run that never
    was, such as an imported model, the first one."""
    checkpoints = Checkpoints(model_dir, read_only=True)
    _, progress = checkpoints.best()
    checkpoints.close()
    return list(range(progress.last_evaluated() + 1))


def _evaluate_round(trained: TrainedRun, asked: list[dict[str, Any]], measures: Measures) -> None:
    """Decodes what is asked with the parameters of a round."""
    files.clean_up(trained.directory)
    named = trained.progress.arm or trained.agent
    named += f", round {trained.round}" if trained.progress.last_evaluated() else ""
    for one in asked:
        interrupt.check()
        attempts = trained.attempt(one["task"], one["split"], Sample(**one["sample"]))
        found = one | summary(one["task"], attempts) | trained.setting() | {"truncated": trained.truncated}
        print(f"[{named}] {printed(found)}", flush=True)
        # At once: what comes after may be interrupted, or be refused.
        hosts.first("scores", functools.partial(_add, trained, found))
        if measures.fields:
            found |= measured(trained, one["role"], attempts, measures)
            hosts.first("scores", functools.partial(_add, trained, found))


def check_targets(vocabulary: epath.Path) -> None:
    """Reads what `evaluate` is bound to decode.

    Args:
      vocabulary: with which it will be read.

    Raises:
      RequestError: a target or split is not there, or a question or an answer in it is longer than gin allows.
    """
    targets, split = (resolved(gin.query_parameter(f"evaluate.{name}")) for name in ("targets", "split"))
    _check_split(split)
    # Whichever agent it will be: what is asked is read in the same way.
    agent = Agent(name="", lesson=answer_alone, value=None, update=None, terms=())
    loaded, catalogue = vocabularies.load(vocabulary), compose.catalogue()
    student = compose.make_student(agent, loaded)
    for target in targets:
        student.eval_feed(tokenised(catalogue, loaded, target, split))


def _check_split(split: str) -> None:
    if split == UNLABELLED:
        raise RequestError(f"split {split!r} has no answers to score; decode it with `cd_jax infer`")


def _known(model_dir: str | epath.Path) -> list[dict[str, Any]]:
    """The runs in a run's `results.json`, one for each round; none where there is no such file."""
    there = (epath.Path(model_dir) / results.RESULTS).is_file()
    return results.read_results(model_dir)["runs"] if there else []


def _evaluations(known: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """The scores of a round that are known, also of older parameters."""
    of_round = [run for run in known if (run.get("round") or 0) == number]
    return [entry for run in of_round for entry in run.get("evaluations") or scores.before_settings(run)]


def _missing(model_dir: str, number: int, asked: list[dict[str, Any]], measures: Measures) -> list[dict[str, Any]]:
    """What of it is not known, and measured, of the parameters that are best now, decoded as gin says now."""
    checkpoints = Checkpoints(model_dir, read_only=True)
    step, progress = checkpoints.best(number)
    checkpoints.close()
    now = {
        "step": step,
        "parameters": progress.parameters.get(str(step)),
        "decoding": dataclasses.asdict(Decoding()),
        "memory": memory_settings(progress.identity.get("process", {})),
    }
    known = _evaluations(_known(model_dir), number)
    keys = {scores.key(entry) for entry in known if all(name in entry for name in measures.fields)}
    return [one for one in asked if scores.key(one | now) not in keys]


def _add(trained: TrainedRun, found: dict[str, Any]) -> None:
    """Writes a results.json with this score and those that are there, also those that came meanwhile."""
    with lock.in_turn(trained.directory):
        known = _known(trained.directory)
        run = _described(trained, scores.merged(_evaluations(known, trained.round), [found]), found)
        others = [other for other in known if (other.get("round") or 0) != trained.round]
        runs = sorted([*others, run], key=lambda run: run.get("round") or 0)
        written = {"meta": meta([trained.progress.identity["seed"]]), "runs": runs}
        files.write_json(trained.directory / results.RESULTS, written)


def _described(trained: TrainedRun, evaluations: list[dict[str, Any]], found: dict[str, Any]) -> dict[str, Any]:
    """A run of a results.json, where `found` came last, in whichever place it stands."""
    progress, step, number = trained.progress, trained.best_step, trained.round
    parameters = progress.parameters.get(str(step))
    in_turn = [*evaluations, found]
    sources = scores.newest(in_turn, "source", step, parameters)
    of_round = progress.rounds[number] if number < len(progress.rounds) else {}
    return {
        "agent": trained.agent,
        "arm": progress.arm or trained.agent,
        "round": number,
        "rounds": max(len(progress.rounds), 1),
        "seed": progress.identity["seed"],
        "source": sources[-1] if sources else None,
        "targets": scores.newest(in_turn, "target", step, parameters),
        "evaluations": evaluations,
        "trained_on": progress.trained_on,
        "steps": of_round.get("last_step", trained.steps),
        "best_step": step,
        "parameters": parameters,
        "stopped_by": of_round.get("stopped_by", progress.stopped_by),
        "budget": of_round.get("budget", progress.budget),
        "changes": progress.changes,
        "train_seconds": round(of_round.get("train_seconds", progress.train_seconds), 1),
        "updates": {name: of_round[name] for name in ("attempts", "right", "written", "kept") if name in of_round}
        | trained.retrieved(),
    }


@gin.configurable
def infer(
    model_dir: str,
    task: str | None = None,
    split: str = "test",
    per_task: PositiveInt | None = None,
    sample_seed: Seed = 0,
    prompt: str = "",
) -> None:
    """Decodes a task, or one prompt, and prints or writes what the solver says.

    Args:
      model_dir: of a trained run.
      task: task or mixture; goes to `inference/<task>-<step>.jsonl`.
      split: of the task; beside all generations of `unlabelled`, the submission file is written.
      per_task: examples of each task, drawn by `sample_seed` (see `tasks.Sample`); None takes all.
      sample_seed: of the sample.
      prompt: a context and question instead of a task.

    Raises:
      RequestError: neither or both are given, or `evaluate`'s.
    """
    if bool(task) == bool(prompt):
        raise RequestError("infer wants one of --prompt='…' and --gin.TASK=\"'name'\"")
    sample = Sample(per_task, sample_seed)
    trained = TrainedRun(model_dir)
    if task:
        attempts = trained.attempt(task, split, sample)
        if all(attempt.example.answer for attempt in attempts):
            print(printed(summary(task, attempts)))
        print(f"{len(attempts)} generations in {trained.inference_file(task, split)}")
        if split == UNLABELLED and per_task is None:
            print(write_submission(trained.inference_file(task, split), attempts))
        return
    attempt = trained.ask(prompt)
    for found in attempt.retrieved:
        by = f"{found['query']}, distance {found['distance']}, attention {found['attention']}"
        print(f"retrieved ({by}): {found['update']}")
    print(f"generation: {attempt.generation}\nanswer: {attempt.prediction}")


def write_submission(inference_file: epath.Path, attempts: list[Attempt]) -> str:
    """Writes the labels that are handed in for the unlabelled split.

    Args:
      inference_file: the file is written beside it, with the suffix `.submission.json`.
      attempts: at the statements of the split.

    Returns:
      A line that says what was written, and how many labels stand for no answer.
    """
    attempts = [attempt for attempt in attempts if attempt.sample == 0]
    predictions = [attempt.prediction for attempt in attempts]
    labels, unanswered = submission.submission([attempt.example for attempt in attempts], predictions)
    path = inference_file.with_suffix(".submission.json")
    files.write_json(path, labels)
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
