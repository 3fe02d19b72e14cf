"""The report: merging, figures, curves and the page, on experiments made up here."""

import json
import os
import pathlib
import re
import statistics

import pytest

from cd_jax.errors import RequestError
from cd_jax.report import examples, page, plots, table
from cd_jax.rundir import files, journal, results

SCORES = {
    "baseline": [(0.90, 0.41, 0.20), (0.88, 0.44, 0.25), (0.91, 0.39, 0.15)],
    "cd_finetune": [(0.91, 0.52, 0.30), (0.89, 0.50, 0.35), (0.92, 0.57, 0.40)],
    "cd_memory": [(0.90, 0.61, 0.45), (0.92, 0.58, 0.40), (0.88, 0.66, 0.50)],
}


def make_run(directory: pathlib.Path, agent: str, seed: int, scores: tuple[float, float, float]) -> pathlib.Path:
    """A model_dir with everything that a run leaves for the report."""
    folder = directory / f"{agent}-seed{seed}"
    (folder / "inference").mkdir(parents=True)
    source, target, pairwise = scores
    run = {
        "agent": agent,
        "seed": seed,
        "source": {"task": "babi", "accuracy": source, "n": 100},
        "targets": [{"task": "com2sense", "accuracy": target, "pairwise_accuracy": pairwise, "n": 400}],
        "steps": 300,
        "stopped_by": "plateau",
        "train_seconds": 12.34,
    }
    meta = {"versions": {"jax": "0.10.2"}, "seeds": [seed], "commit": "abc1234", "hardware": "cpu x 2"}
    (folder / "results.json").write_text(json.dumps({"meta": meta, "runs": [run]}))
    metrics = [{"step": step, "loss": 100 / (step + 50)} for step in range(50, 301, 50)]
    metrics += [{"step": step, "validation_error": 30 / step, "validation_score": 0.7} for step in (100, 200, 300)]
    write_lines(folder / "metrics.jsonl", metrics)
    write_lines(folder / "inference" / "com2sense-300.jsonl", [make_example(agent, index) for index in range(6)])
    return folder


def make_example(agent: str, index: int) -> dict:
    retrieved = [{"query": "key", "update": "because of <b>", "example_id": "babi/7", "distance": 0.125}]
    return {
        "example_id": f"com2sense/{index}",
        "task": "com2sense",
        "prompt": f"Statement {index}. True or False?",
        "answer": "True",
        "generation": f"<script>alert('{agent} {index}')</script> answer: True",
        "prediction": "True",
        "correct": (index + len(agent)) % 2 == 0,
        "score": 0.5,
        "retrieved": retrieved if agent == "cd_memory" else [],
        "pair_id": "p",
    }


def write_lines(path: pathlib.Path, objects: list[dict]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in objects))


@pytest.fixture
def experiment(tmp_path):
    for agent, runs in reversed(SCORES.items()):
        for seed, scores in enumerate(runs):
            make_run(tmp_path, agent, seed, scores)
    return tmp_path


def test_runs_are_merged_by_agent_and_seed(experiment):
    make_run(experiment, "cd_memory", 10, (0.9, 0.6, 0.4))
    make_run(experiment, "ablation", 0, (0.9, 0.6, 0.4))
    merged = results.merge(experiment)
    order = [(run["agent"], run["seed"]) for run in merged["runs"]]
    expected = [(agent, seed) for agent in SCORES for seed in range(3)]
    assert order == [*expected, ("cd_memory", 10), ("ablation", 0)]
    assert [path.name for path in results.run_dirs(experiment)] == [f"{agent}-seed{seed}" for agent, seed in order]
    assert merged["meta"]["seeds"] == [0, 1, 2, 10]
    assert merged["meta"]["versions"] == {"jax": "0.10.2"}


def test_differing_meta_is_joined(experiment):
    path = experiment / "cd_memory-seed2" / "results.json"
    found = json.loads(path.read_text())
    found["meta"] |= {"versions": {"jax": "0.10.3", "flax": "1"}, "commit": None}
    path.write_text(json.dumps(found))
    meta = results.merge(experiment)["meta"]
    assert meta["versions"] == {"jax": "0.10.2, 0.10.3", "flax": "1"}
    assert meta["commit"] == "abc1234"


def test_a_model_dir_is_an_experiment_of_one_run(tmp_path):
    folder = make_run(tmp_path, "baseline", 3, (0.9, 0.4, 0.2))
    assert results.run_dirs(folder) == [folder]
    assert [run["seed"] for run in results.merge(folder)["runs"]] == [3]
    assert page.write(folder) == folder / "report.html"


def test_a_merged_file_beside_the_runs_is_not_a_run(experiment):
    merged = results.merge(experiment)
    files.write_json(experiment / "results.json", merged)
    assert results.merge(experiment) == merged


def test_the_same_run_twice_is_refused(experiment):
    os.rename(experiment / "baseline-seed0", experiment / "copy")
    make_run(experiment, "baseline", 0, (0.9, 0.4, 0.2))
    with pytest.raises(RequestError, match=r"baseline with seed 0 is also in .*baseline-seed0"):
        results.merge(experiment)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"meta": {},\n "runs": [', "not JSON: "),
        ("[]", "not a JSON object"),
        ('{"runs": [{"agent": "baseline"}]}', "`runs[0]` has no `agent`"),
        ('{"runs": [{"agent": "a", "seed": 0, "targets": [{}]}]}', "without a `task`"),
        (
            '{"runs": [{"agent": "a", "seed": 0, "source": {"task": "t", "accuracy": "0.9"}}]}',
            "`accuracy` that is no number",
        ),
        ('{"runs": [], "meta": 1}', "`meta` is not an object"),
        (b"\xff", "not UTF-8 at byte 0"),
    ],
)
def test_wrong_results_are_named_in_one_line(experiment, content, problem):
    path = experiment / "baseline-seed1" / "results.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RequestError) as raised:
        page.write(experiment)
    message = str(raised.value)
    assert message.startswith(f"{path}: ") and problem in message and "delete it" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["", "missing"])
def test_no_results_is_an_error(tmp_path, name):
    with pytest.raises(RequestError, match=re.escape(str(tmp_path / name))):
        results.merge(tmp_path / name)


def test_run_table(experiment):
    found = table.run_table(results.merge(experiment))
    target = "com2sense, pairwise in parentheses (n=400)"
    assert found.headers == ("arm", "seed", "source babi (n=100)", target, "steps", "stopped by", "seconds")
    assert found.rows[0] == ("baseline", "0", "0.900", "0.410 (0.200)", "300", "plateau", "12.3")
    assert len(found.rows) == 9


def test_seed_table_has_mean_sd_and_range(experiment):
    found = table.seed_table(results.merge(experiment))
    assert found.headers == ("arm", "seeds", "source babi (n=100)", "com2sense (n=400)", "com2sense pairwise")
    row = dict(zip(found.headers, found.rows[2], strict=True))
    target = [scores[1] for scores in SCORES["cd_memory"]]
    mean, sd = statistics.mean(target), statistics.stdev(target)
    assert (row["arm"], row["seeds"]) == ("cd_memory", "3")
    assert row["com2sense (n=400)"] == f"{mean:.3f} ± {sd:.3f} (0.580–0.660)"
    # By hand: 0.45, 0.40, 0.50 have the mean 0.45 and the sd sqrt((0 + 0.0025 + 0.0025) / 2) = 0.05.
    assert row["com2sense pairwise"] == "0.450 ± 0.050 (0.400–0.500)"


def test_one_seed_has_no_spread(tmp_path):
    make_run(tmp_path, "baseline", 0, (0.9, 0.4, 0.2))
    assert table.seed_table(results.merge(tmp_path)) is None


def test_difference_table_pairs_the_seeds(experiment):
    make_run(experiment, "cd_memory", 10, (0.1, 0.1, 0.1))
    found = table.difference_table(results.merge(experiment))
    assert found.title == table.TITLE_DIFFERENCES.format("baseline")
    assert found.headers == ("arm", "source babi (n=100)", "com2sense (n=400)", "com2sense pairwise")
    assert [row[0] for row in found.rows] == ["cd_finetune", "cd_memory"]
    # By hand: 0.61 - 0.41, 0.58 - 0.44 and 0.66 - 0.39 have the mean 0.203 and the sd 0.0651; t(2, 97.5 %) is 4.303.
    assert found.rows[1][2] == "+0.203 [+0.042, +0.365] over 3"
    assert "difference from baseline" in page.write(experiment).read_text().lower()


def test_two_arms_of_one_agent_are_two_rows(tmp_path):
    for arm in ("random", "fixed"):
        for seed in range(2):
            folder = make_run(tmp_path, arm, seed, (0.9, 0.4 + 0.1 * (arm == "fixed"), 0.2))
            run = json.loads((folder / "results.json").read_text())
            run["runs"][0] |= {"agent": "cd_memory", "arm": arm}
            (folder / "results.json").write_text(json.dumps(run))
    merged = results.merge(tmp_path)
    assert [(run["arm"], run["seed"]) for run in merged["runs"]] == [
        ("fixed", 0), ("fixed", 1), ("random", 0), ("random", 1)
    ]  # fmt: skip
    assert [row[0] for row in table.seed_table(merged).rows] == ["fixed", "random"]
    assert [row[0] for row in table.difference_table(merged).rows] == ["random"]
    text = page.write(tmp_path).read_text()
    assert "fixed, random" in text and "cd_memory</td>" not in text


def test_rounds_of_a_run_are_not_the_same_run_twice():
    run = {"agent": "cd_memory", "seed": 0}
    assert results._key(run) == results._key(run | {"arm": "cd_memory", "round": 0})
    assert results._key(run) < results._key(run | {"round": 1}) < results._key(run | {"arm": "other"})


def test_missing_figures_show_as_absent():
    runs = [
        {"agent": "baseline", "seed": 0, "targets": [{"task": "t", "accuracy": 0.5, "n": 10}]},
        {"agent": "baseline", "seed": 1, "targets": [{"task": "t", "accuracy": 0.7, "n": 20}]},
        {"agent": "baseline", "seed": 2},
    ]
    found = {"meta": {}, "runs": runs}
    # A column has one n.
    assert table.run_table(found).headers[2:4] == ("t (n=10)", "t (n=20)")
    assert table.run_table(found).rows[2] == ("baseline", "2", "–", "–", "–", "–", "–")
    assert table.seed_table(found).rows == (("baseline", "3", "0.500", "0.700"),)


def test_render_is_text_with_three_decimals(experiment):
    text = table.render(results.merge(experiment))
    assert "0.900" in text and "0.410 (0.200)" in text and "0.450 ± 0.050" in text
    assert table.render({"meta": {}, "runs": []}).startswith(table.TITLE_RUNS)


def test_cut_and_repeated_lines_of_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = ['{"step": 50, "loss": 2.0}', '{"step": 100, "lo{"step": 100, "loss": 1.5}', '{"step": 50, "loss": 1.0}']
    path.write_bytes("\n".join([*lines, '{"step": 150, "note": "é']).encode()[:-1])
    found, skipped = journal.read_tolerantly(path)
    assert skipped == 2
    assert results.series(found, "loss") == [(50, 1.0)]


def test_values_that_are_not_finite_are_not_drawn():
    metrics = [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": None}, {"step": 3, "loss": 1}, {"loss": 1}]
    assert results.series(metrics, "loss") == [(3, 1.0)]


def test_the_newest_inference_counts(tmp_path):
    (tmp_path / "inference").mkdir()
    for name in ("a-b-90.jsonl", "a-b-100.jsonl", "c-5.jsonl", "c-last.jsonl"):
        (tmp_path / "inference" / name).touch()
    found = results.inference_files(tmp_path)
    assert {task: path.name for task, path in found.items()} == {"a-b": "a-b-100.jsonl", "c": "c-5.jsonl"}


def test_page_escapes_what_models_say(experiment):
    text = page.write(experiment).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(&#39;baseline 0&#39;)" in text
    assert "because of &lt;b&gt;" in text


def test_page_is_self_contained(experiment):
    text = page.write(experiment).read_text()
    # The only addresses are the names of SVG's namespaces.
    assert set(re.findall(r"https?://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"<(link|img|iframe)\b|@import|url\((?!#)", text)
    assert text.count("<svg") == 3
    assert "Absent from this report" not in text


def test_page_is_the_same_each_time(experiment):
    first = page.write(experiment).read_bytes()
    assert page.write(experiment).read_bytes() == first


def test_page_shows_right_and_wrong_of_every_agent(experiment):
    text = page.write(experiment).read_text()
    assert text.count('<article class="example">') == 4
    assert text.count('<section class="attempt"') == 12
    assert 0 < text.count("✓ right") < 12
    assert text.count("one of 3 with this pattern") == 4


def test_page_says_what_is_absent(experiment):
    (experiment / "baseline-seed0" / "metrics.jsonl").unlink()
    (experiment / "baseline-seed1" / "inference" / "com2sense-300.jsonl").unlink()
    (experiment / "cd_memory-seed2" / "results.json").unlink()
    with (experiment / "cd_finetune-seed0" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3')
    text = page.write(experiment).read_text()
    assert "baseline-seed0: no metrics.jsonl" in text
    assert "baseline-seed1: no inference/com2sense-" in text
    assert "cd_memory-seed2: no results.json" in text
    assert "cd_finetune-seed0/metrics.jsonl: 1 incomplete line" in text


def test_page_of_a_run_with_results_alone(tmp_path):
    files.write_json(tmp_path / "results.json", {"runs": [{"agent": "baseline", "seed": 0}]})
    text = page.write(tmp_path).read_text()
    assert "No accuracy was recorded" in text and "No training loss was recorded" in text


def test_outcomes_take_turns():
    outcomes = {"a": (True,), "b": (True,), "c": (True,), "d": (False,), "e": (True,)}
    assert examples.choose(outcomes, outcomes, 4) == [("a", 4), ("d", 1), ("b", 4), ("c", 4)]


def test_an_answer_that_nobody_judged_is_not_called_wrong(tmp_path):
    folder = make_run(tmp_path, "baseline", 0, (0.9, 0.4, 0.2))
    unjudged = [make_example("baseline", index) | {"answer": "", "correct": None, "score": None} for index in range(3)]
    write_lines(folder / "inference" / "com2sense-300.jsonl", unjudged)
    text = page.write(tmp_path).read_text()
    assert text.count("– not judged") == 3 and "✗ wrong" not in text


def test_an_agent_has_one_colour():
    assert plots.colours(["baseline"])["baseline"] == plots.colours(["x", "cd_memory", "baseline"])["baseline"]
    assert len(set(plots.colours(["x", "y", *SCORES]).values())) == 5


def test_long_curves_are_thinned():
    curve = plots.Curve("baseline", 0, [(step, step % 7) for step in range(100_000)])
    assert len(plots.learning_curves([curve], "training loss", {"baseline": "#000000"})) < 50_000
    assert plots.learning_curves([plots.Curve("baseline", 0, [])], "training loss", {}) is None


def test_a_logarithmic_axis_has_figures():
    curve = plots.Curve("baseline", 0, [(100, 2.2), (200, 0.3), (300, 0.15)])
    drawn = plots.learning_curves([curve], "training loss", {"baseline": "#000000"}, logarithmic=True)
    assert "mathdefault" not in drawn


def test_labels_of_the_chart_are_as_narrow_as_their_bars():
    scored = {"task": "babi_qa1_names", "accuracy": 0.5, "n": 20, "sample": {"per_task": 20, "seed": 0}}
    run = {"agent": "baseline", "seed": 0, "source": scored, "targets": [scored, scored | {"task": "t"}]}
    drawn = plots.accuracy_chart({"meta": {}, "runs": [run]}, {"baseline": "#000000"})
    told = [text for text in re.findall(r"<text[^>]*>([^<]*)</text>", drawn) if "0." not in text]
    assert "babi_qa1_names" in told and max(map(len, told)) < 20
    assert " ".join(told).count("20 of each task by seed 0") == 3
