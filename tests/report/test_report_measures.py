"""What the report shows of calibration and of updates."""

import json
import shutil
import statistics
import xml.etree.ElementTree

import pytest

from cd_jax.errors import RequestError
from cd_jax.report import measures, page, plots
from cd_jax.rundir import results
from cd_jax.tasks import vocabulary as vocabularies


def judged(auc, brier=0.1):
    bins = [{"confidence": 0.25, "accuracy": 0.5, "n": 3}, {"confidence": 0.9, "accuracy": 1.0, "n": 7}]
    return {"auc": auc, "brier": brier, "ece": 0.05, "n": 10, "bins": bins}


def told(gain, **more):
    return {"gain": gain, "positive": 0.75, "n": 8, "length": {"mean": 11.5}, "compression": {"tokens": 0.5}, **more}


def make_run(directory, agent, seed, **measured):
    folder = directory / f"{agent}-seed{seed}"
    folder.mkdir()
    target = {"task": "t2", "accuracy": 0.5, "n": 10, **measured}
    run = {"agent": agent, "seed": seed, "source": {"task": "t1", "accuracy": 1.0, "n": 10}, "targets": [target]}
    (folder / "results.json").write_text(json.dumps({"meta": {}, "runs": [run]}))
    return folder


@pytest.fixture
def experiment(tmp_path):
    for seed, (auc, gain) in enumerate([(0.6, 1.0), (0.9, 2.0)]):
        calibration = {"p_true": judged(None if seed else 0.5), "score_head": judged(auc)}
        gains = {"random": told(gain), "retrieved": told(3.0, passages=0.25)}
        make_run(tmp_path, "cd_memory", seed, calibration=calibration, gain=gains)
    make_run(tmp_path, "baseline", 0)
    return tmp_path


def test_means_over_the_seeds(experiment):
    merged = results.merge(experiment)
    [one] = measures.reliabilities(merged, plots.colours(["baseline", "cd_memory"]))
    assert one.figures.title == "calibration: t2 (n=10)"
    # Of p_true one area is known; the Brier score of both.
    assert one.figures.rows == (
        ("cd_memory", "p_true", "0.500", "0.100", "0.050", "2"),
        ("cd_memory", "score_head", f"{statistics.fmean([0.6, 0.9]):.3f}", "0.100", "0.050", "2"),
    )
    gains = measures.gain_table(merged)
    assert gains.rows == (
        ("cd_memory", "t2", "random", "1.500", "0.750", "11.500", "0.500", "–", "–", "–"),
        ("cd_memory", "t2", "retrieved", "3.000", "0.750", "11.500", "0.500", "–", "–", "0.250"),
    )


def test_the_diagram_is_drawn_the_same_each_time(experiment):
    merged, palette = results.merge(experiment), plots.colours(["baseline", "cd_memory"])
    [one], [other] = measures.reliabilities(merged, palette), measures.reliabilities(merged, palette)
    assert one.diagram == other.diagram and "cd_memory score_head" in one.diagram
    xml.etree.ElementTree.fromstring(one.diagram)


def test_the_page(experiment):
    shown = page.write(experiment).read_text()
    assert "Does it know what it knows?" in shown and "What updates bring" in shown
    assert "Updates as they were written" not in shown


def test_nothing_was_measured(tmp_path):
    make_run(tmp_path, "baseline", 0)
    shown = page.write(tmp_path).read_text()
    assert "Does it know what it knows?" not in shown and 'id="updates"' not in shown


def test_updates_as_they_were_written(experiment):
    texts = ["because of it.", "because of it.", "Mary is there."]
    lines = [{"example_id": f"e{i}", "update": text, "sample": 0} for i, text in enumerate(texts)]
    (experiment / "updates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.copy(vocabularies.EMBEDDED, experiment / "vocabulary.model")
    folder = experiment / "cd_memory-seed0"
    (folder / "updates.jsonl").write_text(json.dumps(lines[0] | {"round": 1}) + "\n")
    absent = []
    found = measures.sets_table(experiment, absent)
    lengths = [len(vocabularies.load().encode(text)) for text in texts]
    [row] = found.rows
    assert row[:6] == ("updates.jsonl", "0", "3", "2", f"{statistics.fmean(lengths):.1f}", str(max(lengths)))
    # What cannot be read is said.
    assert len(absent) == 1 and "cd_memory-seed0/vocabulary.model" in absent[0]
    shown = page.write(experiment).read_text()
    assert "Updates as they were written" in shown and "cd_memory-seed0/vocabulary.model" in shown


@pytest.mark.parametrize(
    "wrong",
    [
        {"calibration": {"p_true": judged(1.5)}},
        {"calibration": {"p_true": judged(0.5) | {"bins": [{"confidence": 0.5}]}}},
        {"calibration": [judged(0.5)]},
        {"gain": {"own": told("much")}},
        {"gain": {"own": {"gain": 1.0}}},
    ],
)
def test_damaged_figures_are_refused(tmp_path, wrong):
    make_run(tmp_path, "baseline", 0, **wrong)
    [name] = wrong
    with pytest.raises(RequestError, match=f"has a `{name}` of the wrong kind; delete it and evaluate the run again"):
        page.write(tmp_path)
