"""A trained run from Python, as documented, from outside of the package; and results that evaluations add to."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import runs

import cd_jax
from cd_jax.errors import RequestError
from cd_jax.rundir import scores
from cd_jax.rundir.checkpoints import Checkpoints

THREE_LINES = """
import cd_jax
run = cd_jax.load({folder!r})
print(run.ask("John went to the office. Where is John?").prediction)
"""


def test_the_version_is_that_of_the_package(user_environment):
    shown = subprocess.run(
        [sys.executable, "-m", "cd_jax", "--version"], env=user_environment, capture_output=True, text=True
    )
    assert shown.stdout.strip().endswith(cd_jax.__version__) and re.match(r"\d+\.\d+", cd_jax.__version__)


def test_the_lines_of_the_readme(trained, tmp_path, user_environment):
    """As written: a run is asked, told something, asked again, and forgets it."""
    readme = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
    lines = re.search(r"From Python:\n\n((?:    .*\n)+)", readme)[1]
    program = re.sub("^    ", "", lines, flags=re.MULTILINE).replace("runs/mine", str(trained[0]))
    assert len(program.splitlines()) == 9
    before = {path.name: path.read_bytes() for path in (trained[0] / "memory").glob("*.jsonl")}
    said = subprocess.run(
        [sys.executable, "-c", program], env=user_environment, capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert said.returncode == 0, said.stderr
    first, stayed, then = [line for line in said.stdout.splitlines() if not line.startswith("[lengths]")]
    assert stayed == "1" and "[{" in then and "[{" not in first
    # Nobody asked to keep it.
    assert before == {path.name: path.read_bytes() for path in (trained[0] / "memory").glob("*.jsonl")}


@pytest.mark.slow
def test_three_lines_say_what_infer_says(trained, tmp_path, user_environment):
    folder, _ = trained
    program = [sys.executable, "-c", THREE_LINES.format(folder=str(folder))]
    said = subprocess.run(program, env=user_environment, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert said.returncode == 0, said.stderr
    prompt = "--prompt=John went to the office. Where is John?"
    inferred = runs.command(["infer", f"--model_dir={folder}", prompt], user_environment)
    assert f"answer: {said.stdout.strip()}\n" in inferred.stdout


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(RequestError, match=r"config\.gin: no such file; give the folder of a trained run"):
        cd_jax.load(str(tmp_path))


# Results


def entry(task="t", step=4, **more):
    return {"role": "target", "task": task, "step": step, "sample": {"per_task": None, "seed": 0}, **more}


def test_what_is_found_in_another_way_stands_beside():
    before = [entry(accuracy=0.1), entry(accuracy=0.2, sample={"per_task": 50, "seed": 0}), entry("u", accuracy=0.3)]
    merged = scores.merged(before, [entry(accuracy=0.9), entry(step=8, accuracy=0.8)])
    assert [one["accuracy"] for one in merged] == [0.9, 0.2, 0.3, 0.8]
    run = {"best_step": 8, "evaluations": merged}
    # What was found with parameters of before is kept, and not shown beside those of now.
    assert [one["accuracy"] for one in scores.of_run(run, "target")] == [0.8]


def test_evaluations_are_added_and_none_is_lost(trained, tmp_path, capfd):
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)

    def evaluate(**bound):
        given = runs.arguments("eval", folder, **({"SOURCE_PER_TASK": 5, "EVAL_PER_TASK": 6, "MESH_MODEL": 4} | bound))
        assert runs.here([*given, "--gin.MESH_DATA=2"]) == 0, capfd.readouterr().err
        [run] = json.loads((folder / "results.json").read_text())["runs"]
        return run

    first = evaluate(TARGETS="['babi_qa6']")
    assert [one["task"] for one in first["targets"]] == ["babi_qa6"] and first["targets"][0]["n"] == 6
    assert first["trained_on"] == {"task": runs.SOURCE, "examples": 5, "updates": 15}
    assert first["source"]["sample"] == {"per_task": 5, "seed": 0} and first["budget"] == "steps"
    assert first["source"]["decoding"]["num_beams"] == 1 and first["source"]["memory"]["num_queries"] == 2
    checkpoints = Checkpoints(folder, read_only=True)
    step, progress = checkpoints.best()
    checkpoints.close()
    assert first["source"]["step"] == step and first["source"]["parameters"] == progress.parameters[str(step)]

    second = evaluate(TARGETS="['babi_qa9']", Decoding__num_beams=2)
    kept = [(one["role"], one["task"], one["setting"]) for one in second["evaluations"]]
    assert kept == [
        ("source", runs.SOURCE, ""),
        ("target", "babi_qa6", ""),
        ("source", runs.SOURCE, "num_beams=2"),
        ("target", "babi_qa9", "num_beams=2"),
    ]
    third = evaluate(TARGETS="['babi_qa6']", EVAL_PER_TASK=3)
    assert third["evaluations"][:4] == second["evaluations"] and len(third["evaluations"]) == 5
    assert runs.here(["report", f"--model_dir={folder}"]) == 0
    said = capfd.readouterr().out
    assert "babi_qa6 (n=6: 6 of each task by seed 0)" in said and "babi_qa6 (n=3: 3 of each task by seed 0)" in said
    assert "babi_qa9 (n=6: 6 of each task by seed 0, num_beams=2)" in said
    assert (
        "Trained on" in (folder / "report.html").read_text()
        and "5 examples, 15 updates" in (folder / "report.html").read_text()
    )
    assert not [path for path in folder.rglob("*") if path.name.endswith((".tmp", ".lock", ".turn"))]


def test_another_vocabulary_of_the_same_size_is_refused(trained, tmp_path, capfd):
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    path = folder / "vocabulary.model"
    content = path.read_bytes()
    # Two pieces change places.
    path.write_bytes(
        content.replace(b"kitchen", b"KITCHEN").replace(b"hallway", b"kitchen").replace(b"KITCHEN", b"hallway")
    )
    assert path.read_bytes() != content and len(path.read_bytes()) == len(content)
    assert runs.here(["infer", f"--model_dir={folder}", "--prompt=Where is John?"]) == 2
    assert f"{path}: is not the vocabulary that the run was trained with" in capfd.readouterr().err
