"""The report of an experiment: one HTML file that needs nothing beside it."""

import functools
import pathlib
from typing import Any

import jinja2
import markupsafe
from etils import epath

from cd_jax.report import breakdown, examples, measures, memory, plots, table
from cd_jax.report.examples import Run
from cd_jax.rundir import files, journal
from cd_jax.rundir import results as results_lib

REPORT = "report.html"
_TEMPLATE = "page.html.jinja"
_EXAMPLES_PER_TASK = 4

Json = dict[str, Any]


def write(directory: files.Path) -> epath.Path:
    """Writes the page about an experiment.

    Args:
      directory: an experiment folder, or the model_dir of a single run.

    Returns:
      The page's path, `report.html` in that folder. The same input gives the same bytes.

    Raises:
      RequestError: there is no results.json, or one is wrong.
      RunError: the page cannot be written.
    """
    whole = epath.Path(directory)
    results = results_lib.merge(whole)
    runs, absent = _read_runs(whole)
    absent += [f"{folder.name}: no {results_lib.RESULTS}" for folder in results_lib.unfinished_dirs(whole)]
    sets = measures.sets_table(whole, absent)
    path = whole / REPORT
    files.write_text(path, _render(whole.resolve().name, results, runs, sets, absent))
    return path


def _render(name: str, results: Json, runs: list[Run], sets: table.Table | None, absent: list[str]) -> str:
    palette = plots.colours([results_lib.named(run) for run in results["runs"]])
    each_run, *over_seeds = table.tables(results)
    targets = list(dict.fromkeys(column.task for column in table.columns(results) if column.role == "target"))
    return _template().render(
        name=name,
        facts=_facts(results),
        absent=absent,
        tables=[*over_seeds, each_run, *breakdown.tables(results)],
        palette=palette,
        accuracy=_markup(plots.accuracy_chart(results, palette)),
        loss=_markup(_curves(runs, "loss", "training loss", palette, logarithmic=True)),
        error=_markup(_curves(runs, "validation_error", "validation error", palette)),
        most_points=plots.MOST_POINTS,
        tasks=[examples.of_task(task, runs, _EXAMPLES_PER_TASK) for task in targets],
        sets=sets,
        gains=measures.gain_table(results),
        reliabilities=measures.reliabilities(results, palette),
        memories=memory.browsers(targets, runs),
    )


@functools.cache
def _template() -> jinja2.Template:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(_TEMPLATE)


def _markup(svg: str | None) -> markupsafe.Markup | None:
    return None if svg is None else markupsafe.Markup(svg)


def _curves(runs: list[Run], metric: str, label: str, palette: dict[str, str], logarithmic: bool = False) -> str | None:
    curves = [plots.Curve(run.arm, run.seed, results_lib.series(run.metrics, metric)) for run in runs]
    return plots.learning_curves(curves, label, palette, logarithmic)


def _read_runs(directory: epath.Path) -> tuple[list[Run], list[str]]:
    """The runs of an experiment, and a line about each thing that one would expect and that is not there."""
    runs: list[Run] = []
    absent: list[str] = []
    for folder in results_lib.run_dirs(directory):
        records = results_lib.read_results(folder)["runs"]
        if len({(results_lib.arm(record), record["seed"]) for record in records}) == 1:
            # Of several rounds the last one: its are the newest examples, and the memory.
            runs.append(_read_run(folder, records[-1], absent))
        else:
            # The logs do not say which of several runs they are about.
            absent.append(f"{folder.name}: {len(records)} runs in one folder, so no curves and examples of them")
    return sorted(runs, key=lambda run: (results_lib.arm_order(run.arm), run.seed)), absent


def _read_run(folder: epath.Path, record: Json, absent: list[str]) -> Run:
    metrics: list[Json] = []
    if (folder / results_lib.METRICS).is_file():
        metrics = _read(folder / results_lib.METRICS, absent)
    else:
        absent.append(f"{folder.name}: no {results_lib.METRICS}")
    inference = {}
    for task, path in results_lib.inference_files(folder).items():
        decoded = _read(path, absent)
        inference[task] = {str(example["example_id"]): example for example in decoded if "example_id" in example}
    for target in record.get("targets") or []:
        if not inference.get(target["task"]):
            absent.append(f"{folder.name}: no {results_lib.INFERENCE}/{target['task']}-<step>.jsonl")
    entries = folder / results_lib.MEMORY / results_lib.ENTRIES
    held = _read(entries, absent) if entries.is_file() else []
    return Run(results_lib.named(record), record["seed"], metrics, inference, held)


def _read(path: epath.Path, absent: list[str]) -> list[Json]:
    objects, skipped = journal.read_tolerantly(path)
    if skipped:
        absent.append(f"{path.parent.name}/{path.name}: {skipped} incomplete line(s) passed over")
    return objects


def _facts(results: Json) -> list[tuple[str, str]]:
    """What was run, as (term, description)."""
    tasks, meta = table.columns(results), results["meta"]
    targets = ", ".join(f"{c.task} ({c.size})" if c.size else c.task for c in tasks if c.role == "target")
    facts = [
        ("Trained on", _trained_on(results)),
        ("Tested without fine-tuning on", targets),
        *_cut(results),
        ("Arms", ", ".join(table.by_arm(results))),
        ("Seeds", examples.plain(meta.get("seeds"))),
        ("Hardware", examples.plain(meta.get("hardware"))),
        ("Commit", examples.plain(meta.get("commit"))),
        ("Versions", examples.plain(meta.get("versions"))),
    ]
    return [(term, description or "not recorded") for term, description in facts]


def _cut(results: Json) -> list[tuple[str, str]]:
    """Of which tasks some prompts did not fit, and their share for the arm that has least room."""
    told = []
    recorded = False
    for column in table.columns(results):
        cuts = [cut for run in results["runs"] if (cut := table.score(run, column).get("truncated"))]
        recorded = recorded or bool(cuts)
        prompts, facts = (max((cut.get(name, 0) for cut in cuts), default=0) for name in ("prompts", "facts"))
        if prompts:
            lost = f", {100 * facts:.0f} % a supporting fact" if facts else ""
            told.append(f"{column.full_name}: {100 * prompts:.0f} % lose their start{lost}")
    return [("Prompts that did not fit", "; ".join(told) or "none")] if recorded else []


def _trained_on(results: Json) -> str:
    """The source, with the number of its training examples, and of the updates that explain them."""
    sizes: dict[str, Json] = {}
    for run in results["runs"]:
        trained = run.get("trained_on") or {}
        of_task = sizes.setdefault(trained.get("task") or (run.get("source") or {}).get("task", ""), {})
        # Agents without updates learn from the same examples.
        for name in ("examples", "updates"):
            of_task[name] = max(of_task.get(name, 0), trained.get(name) or 0)
    told = {
        task: ", ".join(f"{size:,} {name}" for name, size in of_task.items() if size) for task, of_task in sizes.items()
    }
    return ", ".join(f"{task} ({size})" if size else task for task, size in told.items())
