"""The figures of an experiment as tables: one row a run, and one row an arm over its seeds."""

import dataclasses
import statistics
from collections.abc import Iterable
from typing import Any

import tabulate

from cd_jax.experiment import compare
from cd_jax.rundir import results as results_lib
from cd_jax.rundir import scores
from cd_jax.tasks import sample

ABSENT = "–"
TITLE_ROUNDS = "what each round did: attempts at the source, updates, and entries of its memory that training retrieved"
TITLE_RUNS = "accuracy of each run"
TITLE_SEEDS = "mean ± sd (min–max) over the seeds"
TITLE_DIFFERENCES = "difference from {}, mean [95 % interval] over the seeds of both"

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
      title: what the figures are.
      headers: one for each column.
      rows: the cells, [row][column].
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Column:
    """One task of the experiment in one role, scored in one way: its figures can be compared.

    Attributes:
      role: `source` or `target`.
      task: the task's name.
      n: the number of examples; None where it is not recorded.
      how: the split where it is not the test split, how the sample was drawn (`all`), and what is unlike the usual in
        decoding; empty where none of it was recorded.
      has_pairs: whether some run has a pairwise accuracy on it.
    """

    role: str
    task: str
    n: int | None
    how: str
    has_pairs: bool

    @property
    def name(self) -> str:
        """The task, with its role where that is the source."""
        return f"source {self.task}" if self.role == "source" else self.task

    @property
    def full_name(self) -> str:
        """The `name`, and in parentheses the `size`."""
        return f"{self.name} ({self.size})" if self.size else self.name

    @property
    def size(self) -> str:
        """`n=500`, and `how` they were drawn and decoded; empty where neither is recorded."""
        return ": ".join(filter(None, (size_text([] if self.n is None else [self.n]), self.how)))

    @property
    def header(self) -> str:
        """What stands above the column."""
        name = f"{self.name}, pairwise in parentheses" if self.has_pairs else self.name
        return f"{name} ({self.size})" if self.size else name


def size_text(sizes: Iterable[int]) -> str:
    """`n=500`, or `n=400–500` where the sizes differ; empty where there are none."""
    ordered = sorted(sizes)
    return "n=" + "–".join(str(size) for size in dict.fromkeys((ordered[0], ordered[-1]))) if ordered else ""


def columns(results: Json) -> list[Column]:
    """The source task, then the target tasks, in the order in which the runs name them; of a task one for each way in
    which it was scored, so that no column has figures of different samples."""
    scored: dict[tuple[str, str, int | None, str], list[Json]] = {}
    for role in ("source", "target"):
        for run in results["runs"]:
            for score in scores.of_run(run, role):
                scored.setdefault(_way(role, score), []).append(score)
    return [
        Column(*way, any(score.get("pairwise_accuracy") is not None for score in group))
        for way, group in scored.items()
    ]


def _way(role: str, score: Json) -> tuple[str, str, int | None, str]:
    """The fields of a column that tell it from others."""
    split = score.get("split", "test")
    told = ("" if split == "test" else f"{split} split", sample.text(score.get("sample") or {}), score.get("setting"))
    return role, score["task"], score.get("n"), ", ".join(filter(None, told))


def score(run: Json, column: Column) -> Json:
    """What a run's results say of a column, the newest of it; empty where they say nothing."""
    way = (column.role, column.task, column.n, column.how)
    return next((found for found in reversed(scores.of_run(run, column.role)) if _way(column.role, found) == way), {})


def value(run: Json, column: Column, name: str = "accuracy") -> float | None:
    """A run's figure in a column, `accuracy` or `pairwise_accuracy`; None where the run has none."""
    return score(run, column).get(name)


def by_arm(results: Json) -> dict[str, list[Json]]:
    """The runs of each arm."""
    arms: dict[str, list[Json]] = {}
    for run in sorted(results["runs"], key=lambda run: (results_lib.arm_order(results_lib.named(run)), run["seed"])):
        arms.setdefault(results_lib.named(run), []).append(run)
    return arms


def run_table(results: Json) -> Table:
    """One row for each run, in the order of `results`.

    Args:
      results: the content of a results.json, or `results.merge(directory)`.
    """
    tasks = columns(results)
    headers = ("arm", "seed", *(column.header for column in tasks), "steps", "stopped by", "seconds")
    rows = tuple(
        (
            results_lib.named(run),
            str(run["seed"]),
            *(_run_cell(run, column) for column in tasks),
            _text(run.get("steps")),
            _text(run.get("stopped_by")),
            _text(run.get("train_seconds"), ".1f"),
        )
        for run in results["runs"]
    )
    return Table(TITLE_RUNS, headers, rows)


def seed_table(results: Json) -> Table | None:
    """One row for each arm: mean ± sd (min–max) over its seeds; None where no arm has several seeds.

    The sd is that of a sample (divisor k - 1), the spread that one more seed is to be expected within.
    """
    arms = by_arm(results)
    if max((_seeds(runs) for runs in arms.values()), default=0) < 2:
        return None
    figures = _figures(results)
    rows = tuple(
        (arm, str(_seeds(runs)), *(_seed_cell(runs, column, name) for _, column, name in figures))
        for arm, runs in arms.items()
    )
    return Table(TITLE_SEEDS, ("arm", "seeds", *(header for header, _, _ in figures)), rows)


def difference_table(results: Json) -> Table | None:
    """One row for each arm but the first: how much higher its figures are, paired over the seeds; None where no two
    arms have two seeds in common."""
    reference, *others = by_arm(results).items() or [("", [])]
    figures = _figures(results)
    found = {
        arm: [
            compare.paired(_by_seed(runs, column, name), _by_seed(reference[1], column, name))
            for _, column, name in figures
        ]
        for arm, runs in others
    }
    if not any(any(differences) for differences in found.values()):
        return None
    rows = tuple((arm, *(_difference_cell(one) for one in differences)) for arm, differences in found.items())
    return Table(TITLE_DIFFERENCES.format(reference[0]), ("arm", *(header for header, _, _ in figures)), rows)


def _figures(results: Json) -> list[tuple[str, Column, str]]:
    """What is averaged over the seeds: the header, the column, and the name of the figure in it."""
    figures = []
    for column in columns(results):
        figures.append((column.full_name, column, "accuracy"))
        if column.has_pairs:
            figures.append((f"{column.name} pairwise", column, "pairwise_accuracy"))
    return figures


def rounds_table(results: Json) -> Table | None:
    """What every round of every run did with updates; None where no run had several rounds."""
    runs = [run for run in results["runs"] if (run.get("rounds") or 1) > 1]
    if not runs:
        return None
    headers = ("arm", "seed", "attempts", "of them right", "updates written", "kept in memory", "retrieved")
    names = ("attempts", "right", "written", "kept", "retrieved")
    rows = tuple(
        (results_lib.named(run), str(run["seed"]), *(_text((run.get("updates") or {}).get(name)) for name in names))
        for run in runs
    )
    return Table(TITLE_ROUNDS, headers, rows)


def tables(results: Json) -> list[Table]:
    """All tables of `results`, for readers that lay them out themselves."""
    found = [run_table(results), seed_table(results), difference_table(results), rounds_table(results)]
    return [table for table in found if table is not None]


def render(results: Json) -> str:
    """The tables as plain text for a terminal, ending without a line break."""
    return "\n\n".join(f"{table.title}\n{_plain(table)}" for table in tables(results))


def _plain(table: Table) -> str:
    # Without disable_numparse the library would rewrite figures (0.500 as 0.5).
    align = ("left", *("right" for _ in table.headers[1:]))
    return tabulate.tabulate(table.rows, table.headers, tablefmt="simple", disable_numparse=True, colalign=align)


def _run_cell(run: Json, column: Column) -> str:
    accuracy, pairwise = value(run, column), value(run, column, "pairwise_accuracy")
    text = _text(accuracy, ".3f")
    return text if pairwise is None else f"{text} ({pairwise:.3f})"


def _seeds(runs: list[Json]) -> int:
    return len({run["seed"] for run in runs})


def _seed_cell(runs: list[Json], column: Column, name: str) -> str:
    found = [figure for run in runs if (figure := value(run, column, name)) is not None]
    if len(found) < 2:
        return _text(found[0] if found else None, ".3f")
    spread = f"{statistics.fmean(found):.3f} ± {statistics.stdev(found):.3f} ({min(found):.3f}–{max(found):.3f})"
    # Said only where it is not what the column of seeds says.
    return spread if len(found) == _seeds(runs) else f"{spread} over {len(found)}"


def _by_seed(runs: list[Json], column: Column, name: str) -> dict[int, float]:
    return {run["seed"]: figure for run in runs if (figure := value(run, column, name)) is not None}


def _difference_cell(difference: compare.Difference | None) -> str:
    return ABSENT if difference is None else f"{difference} over {difference.seeds}"


def _text(figure: Any, spec: str = "") -> str:
    return ABSENT if figure is None else format(figure, spec)
