"""Damaged files under a report: one line that names the file and the mend, or a page on which every figure is one."""

import json
import re

import mutants
import pytest
from test_report import SCORES, make_run

from cd_jax.errors import RequestError
from cd_jax.report import gather, page, table
from cd_jax.rundir import journal
from cd_jax.rundir import results as results_lib

FILES = ("results.json", "metrics.jsonl", "inference/com2sense-300.jsonl", "memory/entries.jsonl")
# No text of the runs here has these words.
NO_FIGURE = re.compile(r"\b(nan|inf|infinity)\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """One run of each agent, with all that a run leaves."""
    folder = tmp_path_factory.mktemp("experiment")
    for agent in SCORES:
        run_dir = make_run(folder, agent, 0, (0.9, 0.5, 0.25))
        extend_results(run_dir / "results.json")
    (run_dir / "memory").mkdir()
    entries = [
        {"example_id": f"babi/{n}", "prompt": f"Where is {n}?", "update": "because", "used": n} for n in range(9)
    ]
    (run_dir / "memory" / "entries.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    told = [
        json.loads(line) | {"without_memory": "no", "prompt_attention": 0.5}
        for line in (run_dir / FILES[2]).read_text().splitlines()
    ]
    for record in told:
        record["retrieved"][0]["attention"] = 0.25
    (run_dir / FILES[2]).write_text("".join(json.dumps(record) + "\n" for record in told))
    return folder


def extend_results(path):
    """As evaluation writes them now."""
    found = json.loads(path.read_text())
    [run] = found["runs"]
    how = {"split": "test", "sample": {"per_task": 100, "seed": 0}, "step": 300, "parameters": "ab", "setting": ""}
    how |= {"decoding": {"num_beams": 1}, "memory": None, "truncated": {"prompts": 0.1}}
    run["targets"][0] |= {"by_domain": {"time": {"accuracy": 0.5, "n": 4}}, "by_task": {"a": {"accuracy": 1, "n": 2}}}
    run["targets"][0] |= {"mean_task_accuracy": 1.0, "tasks_at_95": 1, "unpaired": 0}
    run |= {"best_step": 300, "parameters": "ab", "trained_on": {"task": "babi", "examples": 5, "updates": 15}}
    run["evaluations"] = [{"role": "source"} | run["source"] | how, {"role": "target"} | run["targets"][0] | how]
    path.write_text(json.dumps(found))


def outcome(folder, path, content) -> str:
    """What a report makes of the experiment with this content in a file: `refused` or `shown`."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        merged = results_lib.merge(folder)
        text = table.render(merged)
        shown = page.write(folder).read_text() if path.name != "metrics.jsonl" else drawn(folder)
    except RequestError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return "refused"
    finally:
        path.write_bytes(before)
    damaged = content.decode("utf-8", "replace")
    for said in (text, shown):
        # What is text in the file may well say so.
        assert NO_FIGURE.search(damaged) or not NO_FIGURE.search(said)
    return "shown"


def drawn(folder) -> str:
    """What is drawn of the metrics."""
    found, _ = journal.read_tolerantly(folder / "cd_memory-seed0" / "metrics.jsonl")
    return str([results_lib.series(found, name) for name in ("loss", "validation_error")])


def fuzz(experiment, monkeypatch, name, count):
    # Drawing takes a second, and is the same for all figures that `drawn` and the table let through.
    for chart in ("learning_curves", "accuracy_chart"):
        monkeypatch.setattr(page.plots, chart, lambda *_, **__: None)
    path = experiment / "cd_memory-seed0" / name
    outcomes = [outcome(experiment, path, content) for content in mutants.of(path.read_bytes(), count, seed=0)]
    # A log may lack lines; scores are whole or refused, and some damage makes no difference.
    assert "shown" in outcomes
    assert ("refused" in outcomes) == (name == "results.json")


@pytest.mark.parametrize("name", FILES)
def test_some_mutants(experiment, monkeypatch, name):
    fuzz(experiment, monkeypatch, name, 40)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_ten_thousand_mutants(experiment, monkeypatch, name):
    fuzz(experiment, monkeypatch, name, 10_000)


@pytest.mark.parametrize(
    ("name", "value"),
    [("accuracy", 4), ("accuracy", -0.1), ("accuracy", True), ("accuracy", "0.9"), ("n", -5), ("n", 2.5)],
)
def test_figures_that_cannot_be_are_refused(experiment, tmp_path, name, value):
    path = tmp_path / "results.json"
    found = json.loads((experiment / "baseline-seed0" / "results.json").read_text())
    found["runs"][0]["evaluations"][1][name] = value
    path.write_text(json.dumps(found))
    with pytest.raises(RequestError, match=rf"{path}: `runs\[0\]` has an? `{name}`.*; delete it and evaluate"):
        gather.report(str(tmp_path))
    assert sorted(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_cleared_away(experiment, tmp_path):
    make_run(tmp_path, "baseline", 0, (0.9, 0.5, 0.25))
    left = [tmp_path / f".report.html.{'0' * 32}.tmp", tmp_path / "baseline-seed0" / f".results.json.{'a' * 32}.tmp"]
    own = tmp_path / ".notes.tmp"
    for path in (*left, own):
        path.write_text("{")
    gather.report(str(tmp_path))
    assert not any(path.exists() for path in left) and own.exists()
