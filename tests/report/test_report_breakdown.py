"""The report's tables by domain and scenario, and by task."""

import copy

import pytest

from cd_jax.errors import RequestError
from cd_jax.report import breakdown, page, table
from cd_jax.rundir import files, results


def group(accuracy, pairwise, n):
    return {"accuracy": accuracy, "pairwise_accuracy": pairwise, "n": n, "unpaired": 0}


def make_run(agent, seed, gain):
    statements = {
        **{"task": "com2sense", "accuracy": 0.5, "n": 8, "pairwise_accuracy": 0.25, "unpaired": 2},
        "by_domain": {"social": group(0.5 + gain, 0.25 + gain, 4), "time": {"accuracy": 0.0, "n": 1}},
        "by_scenario": {"causal": group(0.75, 0.5, 8)},
    }
    mixture = {
        **{"task": "babi_all", "accuracy": 0.5, "n": 30, "mean_task_accuracy": 0.6 + gain, "tasks_at_95": 1 + seed},
        "by_task": {"babi_qa1": {"accuracy": 0.95, "n": 10}, "babi_qa2": {"accuracy": 0.25 + gain, "n": 20}},
    }
    return {"agent": agent, "seed": seed, "source": statements, "targets": [mixture]}


@pytest.fixture
def merged():
    gains = {("cd_memory", 0): 0.3, ("baseline", 0): 0.0, ("baseline", 1): 0.1}
    return {"meta": {}, "runs": [make_run(agent, seed, gain) for (agent, seed), gain in gains.items()]}


def test_means_over_the_seeds(merged):
    statements, mixture = breakdown.tables(merged)
    assert statements.title == "by domain and scenario, pairwise in parentheses: source com2sense (n=8)"
    assert statements.headers == (
        "arm",
        "domain: social (n=4)",
        "domain: time (n=1)",
        "scenario: causal (n=8)",
        "without their pair",
    )
    assert statements.rows == (
        ("baseline", "0.550 (0.300)", "0.000", "0.750 (0.500)", "2"),
        ("cd_memory", "0.800 (0.550)", "0.000", "0.750 (0.500)", "2"),
    )
    assert mixture.title == "by task: babi_all (n=30)"
    assert mixture.headers == ("arm", "mean of tasks", "of 2 at least 95 %", "babi_qa1 (n=10)", "babi_qa2 (n=20)")
    assert mixture.rows == (
        ("baseline", "0.650", "1.5", "0.950", "0.300"),
        ("cd_memory", "0.900", "1", "0.950", "0.550"),
    )


def test_a_run_that_lacks_the_breakdown_shows_as_absent(merged):
    older = {"agent": "older", "seed": 0, "source": {"task": "com2sense", "accuracy": 0.5}, "targets": []}
    merged["runs"].append(older)
    merged["runs"][1]["source"]["by_domain"]["social"]["n"] = 6
    statements, mixture = breakdown.tables(merged)
    assert statements.headers[1] == "domain: social (n=4–6)"
    assert statements.rows[-1] == ("older", *[table.ABSENT] * 4)
    assert mixture.rows[-1] == ("older", *[table.ABSENT] * 4)
    assert breakdown.tables({"meta": {}, "runs": [older]}) == []


def test_the_page_shows_them(merged, tmp_path):
    files.write_json(tmp_path / "results.json", merged)
    text = page.write(tmp_path).read_text()
    assert "<h3>By domain and scenario, pairwise in parentheses: source com2sense (n=8)</h3>" in text
    assert "<h3>By task: babi_all (n=30)</h3>" in text
    assert "<td>0.800 (0.550)</td>" in text


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("unpaired",), "2", "`unpaired` that is no number"),
        (("mean_task_accuracy",), [], "`mean_task_accuracy` that is no number"),
        (("by_domain",), [1], "`by_domain` that is no object of objects"),
        (("by_scenario", "causal"), 0.5, "`by_scenario` that is no object of objects"),
        (("by_domain", "social", "n"), "4", "`n` that is no number, in `by_domain`"),
    ],
)
def test_wrong_breakdowns_are_named(merged, tmp_path, path, value, problem):
    found = copy.deepcopy(merged)
    inner = found["runs"][0]["source"]
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    files.write_json(tmp_path / "results.json", found)
    with pytest.raises(RequestError, match=problem) as raised:
        results.read_results(tmp_path)
    assert "\n" not in str(raised.value)


def test_samples_of_one_task_have_tables_of_their_own(merged):
    half = merged["runs"][1]["targets"][0] | {"n": 15, "sample": {"per_task": 10, "seed": 3}}
    merged["runs"][1]["targets"].append(half)
    titles = [made.title for made in breakdown.tables(merged)]
    assert titles[1:] == ["by task: babi_all (n=30)", "by task: babi_all (n=15: 10 of each task by seed 3)"]
