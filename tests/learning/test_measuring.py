"""`cd_jax eval` with CALIBRATION and GAIN_PAIRS, and what a run says of answers from Python."""

import json
import shutil

import pytest
import runs

import cd_jax
from cd_jax.errors import RequestError
from cd_jax.rundir import scores

ASKED = {"SOURCE_PER_TASK": 6, "EVAL_PER_TASK": 5, "TARGETS": "['babi_qa6']", "MESH_MODEL": 4, "MESH_DATA": 2}
MESH = ["MESH_MODEL = 4", "MESH_DATA = 2"]
# Training, two learnt verifiers and their figures: minutes.
pytestmark = pytest.mark.slow

MEASURED = {"CALIBRATION": True, "GAIN_PAIRS": 4, "Judging__samples": 2, "Judging__validation": 6}


@pytest.fixture(scope="module")
def measured(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured") / "run"
    shutil.copytree(trained[0], folder)
    assert runs.here(runs.arguments("eval", folder, **ASKED, **MEASURED)) == 0
    return folder


def entries(folder):
    [run] = json.loads((folder / "results.json").read_text())["runs"]
    return {one["role"]: one for one in run["evaluations"]}


def test_what_is_measured_stands_beside_the_accuracy(measured):
    found = entries(measured)
    assert {name: set(one["gain"]) for name, one in found.items()} == {
        "source": {"own", "random", "retrieved"},
        "target": {"random", "retrieved"},
    }
    for one in found.values():
        assert set(one["calibration"]) >= {"p_true", "p_answer", "p_generation"}
        assert all(judged["n"] == one["n"] for judged in one["calibration"].values())
        assert all(numbers["n"] == 4 and numbers["passages"] >= 0 for numbers in one["gain"].values())
    [path] = (measured / "verifier").iterdir()
    assert path.name == f"{found['source']['step']}.json"


def test_a_later_evaluation_keeps_it(measured, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(measured, folder)
    before = entries(folder)
    assert runs.here(runs.arguments("eval", folder, **ASKED)) == 0
    assert entries(folder) == before


def test_only_what_was_not_measured_is_decoded(measured, tmp_path, capfd):
    folder = tmp_path / "run"
    shutil.copytree(measured, folder)
    given = runs.arguments("eval", folder, **ASKED, **MEASURED, evaluate__only_missing=True)
    assert runs.here(given) == 0 and "accuracy" not in capfd.readouterr().out
    path = folder / "results.json"
    content = json.loads(path.read_text())
    for one in content["runs"][0]["evaluations"]:
        one.pop("gain")
    path.write_text(json.dumps(content))
    assert runs.here(given) == 0 and "accuracy" in capfd.readouterr().out
    assert all("gain" in one for one in entries(folder).values())


def test_the_report_shows_it(measured, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(measured, folder)
    assert runs.here(["report", f"--model_dir={folder}"]) == 0
    page = (folder / "report.html").read_text()
    assert "What updates bring" in page and "Does it know what it knows?" in page
    assert f"Calibration: source {runs.SOURCE} (n=" in page


def test_from_python(measured, trained):
    # Where no verifier was learnt.
    with pytest.raises(RequestError, match="no verifier was learnt with these parameters; learn it with `cd_jax eval"):
        cd_jax.load(str(trained[0]), *MESH).judge(["Where is John?"], ["office"])
    run = cd_jax.load(str(measured), *MESH)
    prompts = ["John went to the office. Where is John?", "Mary went to the hall. Where is Mary?"]
    found = run.judge(prompts, ["office", "kitchen"])
    assert len(found) == 2 and all(0 < one < 1 for one in found)
    # Whoever stands beside.
    assert run.judge(prompts[1:], ["kitchen"])[0] == pytest.approx(found[1], abs=1e-4)
    with pytest.raises(ValueError):
        run.judge(prompts, ["office"])


def test_updates_that_are_gone(measured, tmp_path, capfd):
    folder = tmp_path / "run"
    shutil.copytree(measured, folder)
    given = runs.arguments("eval", folder, **ASKED, GAIN_PAIRS=4, train__distilled=f"'{tmp_path}'")
    assert runs.here(given) == 2
    assert "no updates.jsonl that the run learnt from; bind train.distilled to its folder" in capfd.readouterr().err


def test_the_newer_score_takes_the_place_and_keeps_what_was_measured():
    old = {"role": "source", "task": "t", "step": 1, "sample": {}, "accuracy": 0.5, "calibration": 1, "gain": 2}
    new = {name: old[name] for name in ("role", "task", "step", "sample")} | {"accuracy": 0.6, "gain": 3}
    assert scores.merged([old], [new]) == [new | {"calibration": 1}]
    assert scores.merged([old], [new | {"step": 2}]) == [old, new | {"step": 2}]
