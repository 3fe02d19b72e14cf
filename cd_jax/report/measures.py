"""What was measured beside accuracy: how far the solver knows what it knows, and the paper's constraints on updates."""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import markupsafe
from etils import epath

from cd_jax.errors import RequestError
from cd_jax.report import plots, table
from cd_jax.rundir import measures
from cd_jax.rundir import results as results_lib
from cd_jax.rundir import updates as store
from cd_jax.rundir.measures import Calibration, Gain, Judged, Measured
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.update import constraints

VOCABULARY = "vocabulary.model"

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Reliability:
    """How far probabilities of right answers can be relied on, for one task.

    Attributes:
      figures: one row for each arm and probability, means over the seeds.
      diagram: an `<svg>`.
    """

    figures: table.Table
    diagram: markupsafe.Markup


# Calibration


def reliabilities(results: Json, palette: dict[str, str]) -> list[Reliability]:
    """Of each task on which calibration was measured.

    Args:
      results: the content of a results.json, or `results.merge(directory)`.
      palette: `plots.colours` of all arms of the page.
    """
    found = []
    for column in table.columns(results):
        by_arm = {arm: _judged(runs, column) for arm, runs in table.by_arm(results).items()}
        if not any(by_arm.values()):
            continue
        figures = _reliability_table(column, by_arm)
        diagram = plots.reliability(_bins(by_arm), palette)
        found.append(Reliability(figures, markupsafe.Markup(diagram)))
    return found


def _judged(runs: Sequence[Json], column: table.Column) -> dict[str, list[Judged]]:
    """Of the runs of an arm, by the name of the probability."""
    told: dict[str, list[Judged]] = {}
    for run in runs:
        calibration: Calibration = measures.calibration(table.score(run, column).get("calibration"))
        for name, judged in calibration.items():
            told.setdefault(name, []).append(judged)
    return told


def _reliability_table(column: table.Column, by_arm: dict[str, dict[str, list[Judged]]]) -> table.Table:
    rows = tuple(
        (
            arm,
            name,
            _mean(judged.auc for judged in every),
            _mean(judged.brier for judged in every),
            _mean(judged.ece for judged in every),
            str(len(every)),
        )
        for arm, told in by_arm.items()
        for name, every in told.items()
    )
    headers = ("arm", "probability", "area under ROC", "Brier score", "calibration error", "seeds")
    return table.Table(f"calibration: {column.full_name}", headers, rows)


def _bins(by_arm: dict[str, dict[str, list[Judged]]]) -> dict[tuple[str, str], list[measures.Bin]]:
    """By arm and probability, those of the first seed: bins of several do not have the same confidence."""
    return {(arm, name): every[0].bins for arm, told in by_arm.items() for name, every in told.items()}


# Constraints on updates

_Figure = Callable[[Measured], float | None]
_FIGURES: dict[str, _Figure] = {
    "gain": lambda one: one.gain,
    "share above 0": lambda one: one.positive,
    "tokens": lambda one: one.length.get("mean"),
    "tokens of the context's": lambda one: one.compression.get("tokens"),
    "zlib bytes of the contexts'": lambda one: one.compression.get("zlib"),
    "sentences moved": lambda one: one.sentences,
    "passages changed": lambda one: one.passages,
}


def gain_table(results: Json) -> table.Table | None:
    """One row for each arm, task and way of choosing updates, means over the seeds; None where nothing was measured."""
    rows = [
        (arm, column.name, chosen, *(_mean(figure(one) for one in every) for figure in _FIGURES.values()))
        for column in table.columns(results)
        for arm, runs in table.by_arm(results).items()
        for chosen, every in _measured(runs, column).items()
    ]
    headers = ("arm", "labels of", "updates", *_FIGURES)
    return table.Table("what updates bring: nats per token of the answer", headers, tuple(rows)) if rows else None


def _measured(runs: Sequence[Json], column: table.Column) -> dict[str, list[Measured]]:
    told: dict[str, list[Measured]] = {}
    for run in runs:
        gain: Gain = measures.gain(table.score(run, column).get("gain"))
        for name, measured in gain.items():
            told.setdefault(name, []).append(measured)
    return told


def sets_table(directory: epath.Path, absent: list[str]) -> table.Table | None:
    """One row for each `updates.jsonl` of an experiment and round; None where there is none.

    Args:
      directory: an experiment folder, or the model_dir of a single run.
      absent: takes a line about each file that cannot be read.
    """
    folders = dict.fromkeys([directory, *results_lib.run_dirs(directory)])
    rows = [row for folder in folders for row in _set_rows(folder, directory, absent)]
    headers = (
        "updates", "round", "number", "different", "tokens, mean", "most", f"more than {constraints.LONGEST}",
        "zlib bytes of their own",
    )  # fmt: skip
    return table.Table("updates as they were written", headers, tuple(rows)) if rows else None


def _set_rows(folder: epath.Path, whole: epath.Path, absent: list[str]) -> list[tuple[str, ...]]:
    path = folder / store.NAME
    if not path.is_file():
        return []
    try:
        written, vocabulary = store.read(path), vocabularies.load(folder / VOCABULARY)
    except RequestError as error:
        absent.append(str(error))
        return []
    by_round: dict[int, list[str]] = {}
    for update in written:
        by_round.setdefault(update.round, []).append(update.update)
    name = "" if folder == whole else f"{folder.name}/"
    rows: list[tuple[str, ...]] = []
    for number, texts in sorted(by_round.items()):
        length = constraints.length(texts, vocabulary)
        figures = (f"{len(texts):,}", f"{len(set(texts)):,}", f"{length['mean']:.1f}", f"{length['max']:g}")
        shares = (f"{length['over_200']:.3f}", f"{constraints.redundancy(texts):.3f}")
        rows.append((f"{name}{store.NAME}", str(number), *figures, *shares))
    return rows


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.fmean(known):.3f}" if known else table.ABSENT
