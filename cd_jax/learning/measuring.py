"""What `cd_jax eval` measures beside accuracy, where it is asked to: calibration, and what updates bring."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import gin
import msgspec
import numpy as np
from etils import epath

from cd_jax.config.macros import resolved
from cd_jax.config.ranges import PositiveFloat, PositiveInt, Seed
from cd_jax.errors import RequestError
from cd_jax.feed.tokens import TokenisedExamples, tokenised
from cd_jax.learning import gain, judging
from cd_jax.learning.gain import Pair
from cd_jax.learning.trained import TrainedRun
from cd_jax.rundir import files, interrupt, measures
from cd_jax.rundir import updates as store
from cd_jax.solver.decoding import Decoding
from cd_jax.types import Attempt, Update

# Answers on which a calibration means little.
_FEW = 50


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is measured.

    Attributes:
      calibration: of the probabilities that answers are right, see `judging`.
      gain_pairs: examples with an update, at most, whose information gain is measured, for each way of choosing
        updates; None: it is not.
      seed: of what is drawn.
    """

    calibration: bool = False
    gain_pairs: int | None = None
    seed: int = 0

    @property
    def fields(self) -> tuple[str, ...]:
        """Of a score, that are asked for."""
        asked = {"calibration": self.calibration, "gain": self.gain_pairs is not None}
        return tuple(name for name, is_asked in asked.items() if is_asked)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Judging:
    """From what the learnt verifier is learnt.

    Attributes:
      examples: of the source's training split, at most, that the solver attempts.
      samples: attempts at each.
      temperature: of the draws: wrong answers are needed, too.
      validation: examples of each task of the source's validation split, at most, on which it is calibrated.
      seed: of the draws.
    """

    examples: PositiveInt = 500
    samples: PositiveInt = 4
    temperature: PositiveFloat = 1.0
    validation: PositiveInt = 100
    seed: Seed = 0


def measured(trained: TrainedRun, role: str, attempts: Sequence[Attempt], asked: Measures) -> dict[str, Any]:
    """What is asked for, as fields of a score.

    Args:
      trained: of a run.
      role: of the task, `source` or `target`.
      attempts: at its examples, verified.
      asked: what is measured.

    Raises:
      RequestError: the source or its updates are not there, or the run reads updates that were encoded alone.
    """
    found: dict[str, Any] = {}
    if asked.calibration:
        judged = judging.calibration(trained.likelihood(), verifier(trained), attempts)
        found["calibration"] = msgspec.to_builtins(judged)
    if asked.gain_pairs is not None:
        found["gain"] = _gains(trained, role, attempts, asked.gain_pairs, asked.seed)
    return found


def verifier(trained: TrainedRun) -> measures.Verifier:
    """The run's own, which is learnt and kept where there is none of these parameters and settings."""
    digest, settings = trained.parameters, Judging()
    if measures.has_verifier(trained.directory, trained.best_step, digest):
        found = measures.read_verifier(trained.directory, trained.best_step, digest)
        if found.settings == dataclasses.asdict(settings):
            return found
        print(f"[verifier] was learnt with {found.settings or 'other settings'}, and is learnt anew", flush=True)
    likelihood = trained.likelihood()
    attempts = _practice(trained, _source(trained, "train"), settings)
    held_out = _source(trained, "validation", settings.validation)
    validation = trained.student.attempt(trained.params, trained.student.eval_feed(held_out), between=interrupt.check)
    learnt = judging.learn(likelihood, attempts, validation, digest)
    learnt = msgspec.structs.replace(learnt, settings=dataclasses.asdict(settings))
    if len(validation) < _FEW:
        print(f"[verifier] is calibrated on {len(validation)} answers: raise Judging.validation", flush=True)
    measures.write_verifier(trained.directory, trained.best_step, learnt)
    right = np.mean([attempt.correct for attempt in attempts])
    head = "a score head" if learnt.head else "no score head, which takes right and wrong ones"
    print(f"[verifier] {len(attempts)} attempts at the source, {right:.3f} of them right: {head}", flush=True)
    return learnt


def _practice(trained: TrainedRun, source: TokenisedExamples, settings: Judging) -> list[Attempt]:
    """Sampled attempts at training examples."""
    rows = np.random.default_rng((settings.seed, 8)).permutation(len(source.examples))[: settings.examples]
    method = Decoding(temperature=settings.temperature, num_samples=settings.samples)
    student = trained.student
    feed = student.eval_feed(source)
    return student.attempt_some(
        trained.params, feed, rows.astype(np.int32), method, settings.seed, interrupt.check, tell=True
    )


def _source(trained: TrainedRun, split: str, per_task: int | None = None) -> TokenisedExamples:
    return tokenised(trained.catalogue, trained.vocabulary, trained.source, split, per_task)


def _gains(trained: TrainedRun, role: str, attempts: Sequence[Attempt], most: int, seed: int) -> dict[str, Any]:
    """What is measured of the run's updates about the labels of a task, by how they were chosen: an example's `own`,
    one at `random`, and what memory `retrieved`."""
    random = np.random.default_rng((seed, 9))
    updates = _updates(trained)
    first = [attempt for attempt in attempts if attempt.sample == 0]
    pairs: dict[str, list[Pair]] = {}
    if role == "source" and updates:
        examples = {one.example_id: one for one in trained.catalogue.examples(trained.source, "train")}
        pairs["own"] = [(examples[one.example_id], one.update) for one in updates if one.example_id in examples]
    if updates:
        drawn = random.integers(len(updates), size=len(first))
        pairs["random"] = [(one.example, updates[i].update) for one, i in zip(first, drawn, strict=True)]
    pairs["retrieved"] = [(one.example, found["update"]) for one in first for found in one.retrieved]
    chosen = {name: _drawn(some, most, random) for name, some in pairs.items() if some}
    likelihood = trained.likelihood()
    return {name: gain.measured(likelihood, some, seed) for name, some in chosen.items()}


def _drawn(pairs: list[Pair], most: int, random: np.random.Generator) -> list[Pair]:
    return [pairs[i] for i in np.sort(random.permutation(len(pairs))[:most])]


def _updates(trained: TrainedRun) -> list[Update]:
    """From which the run has learnt until this round; none for an agent without."""
    agent = trained.student.agent
    if agent.update is None:
        return []
    paths = [folder / store.NAME for folder in _folders(trained) if (folder / store.NAME).is_file()]
    written = {path: store.read(path) for path in paths}
    first = next((found for updates in written.values() if (found := [one for one in updates if not one.round])), [])
    if not first:
        raise RequestError(
            f"{trained.directory}: no {store.NAME} that the run learnt from; bind train.distilled to its folder"
        )
    own = written.get(trained.directory / store.NAME, [])
    return first + [one for one in own if 0 < one.round <= trained.round]


def _folders(trained: TrainedRun) -> list[epath.Path]:
    """Where updates of before the first round may be: where training was told, in the run's folder, or in that of the
    experiment that it is part of."""
    own = trained.directory
    try:
        bound = resolved(gin.query_parameter("train.distilled"))
    except ValueError:
        bound = None
    return [own, epath.Path(bound)] if bound else [own, files.located(own).parent]
