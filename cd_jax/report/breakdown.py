"""The accuracy of each arm by domain and scenario of the statements, and by task of a mixture, as tables."""

import statistics
from typing import Any

from cd_jax.report import table
from cd_jax.rundir import results as results_lib

_FACETS = ("domain", "scenario")

Json = dict[str, Any]
# Of each run, in order, the scores of one group of examples; None where the run has none.
Group = list[Json | None]


def tables(results: Json) -> list[table.Table]:
    """One row for each arm, means over its seeds; a table for each task or mixture whose scores are broken down.

    Args:
      results: the content of a results.json, or `results.merge(directory)`.
    """
    found = []
    for column in table.columns(results):
        # By arm, so that the runs of an arm stand together.
        runs = [run for runs in table.by_arm(results).values() for run in runs]
        scores = [table.score(run, column) for run in runs]
        arms = [results_lib.named(run) for run in runs]
        found += [_by_facet(column, arms, scores), _by_task(column, arms, scores)]
    return [made for made in found if made is not None]


def _by_facet(column: table.Column, arms: list[str], scores: list[Json]) -> table.Table | None:
    columns = {
        f"{facet}: {name}{_size(group)}": _cells(arms, group, "accuracy", "pairwise_accuracy")
        for facet in _FACETS
        for name, group in _groups(scores, f"by_{facet}").items()
    }
    title = f"by domain and scenario, pairwise in parentheses: {column.full_name}"
    without = {"without their pair": _cells(arms, list(scores), "unpaired", spec="g")}
    return _table(title, arms, columns | without) if columns else None


def _by_task(column: table.Column, arms: list[str], scores: list[Json]) -> table.Table | None:
    groups = _groups(scores, "by_task")
    if not groups:
        return None
    columns = {
        "mean of tasks": _cells(arms, list(scores), "mean_task_accuracy"),
        f"of {len(groups)} at least 95 %": _cells(arms, list(scores), "tasks_at_95", spec=".3g"),
        **{f"{name}{_size(group)}": _cells(arms, group, "accuracy") for name, group in groups.items()},
    }
    return _table(f"by task: {column.full_name}", arms, columns)


def _table(title: str, arms: list[str], columns: dict[str, dict[str, str]]) -> table.Table:
    rows = ((arm, *(cells[arm] for cells in columns.values())) for arm in dict.fromkeys(arms))
    return table.Table(title, ("arm", *columns), tuple(rows))


def _groups(scores: list[Json], key: str) -> dict[str, Group]:
    """The groups under `by_…`, in the order in which the runs name them."""
    found = [score.get(key) or {} for score in scores]
    return {
        name: [groups.get(name) for groups in found] for name in dict.fromkeys(n for groups in found for n in groups)
    }


def _size(group: Group) -> str:
    size = table.size_text(score["n"] for score in group if score and score.get("n") is not None)
    return f" ({size})" if size else ""


def _cells(arms: list[str], group: Group, name: str, beside: str = "", spec: str = ".3f") -> dict[str, str]:
    """For each arm the mean of a figure over its runs, and in parentheses that of another, where there are any."""
    cells = {}
    for arm in dict.fromkeys(arms):
        own = [score or {} for score, whose in zip(group, arms, strict=True) if whose == arm]
        cells[arm] = _mean(own, name, spec) or table.ABSENT
        second = _mean(own, beside, spec)
        cells[arm] += f" ({second})" if second else ""
    return cells


def _mean(scores: list[Json], name: str, spec: str) -> str:
    figures = [score[name] for score in scores if score.get(name) is not None]
    return format(statistics.fmean(figures), spec) if figures else ""
