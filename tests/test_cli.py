"""The command line: help, one-line errors that change nothing, and the demo in miniature."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import runs

from cd_jax import cli, verbs

WORLD = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
1 Daniel went back to the hallway.
2 Sandra moved to the garden.
3 Where is Daniel? \thallway\t1
"""


def refused(capfd, given: list[str], *words: str, status: int = 2) -> str:
    """Runs the command line; its one line of error, in which all the words stand."""
    capfd.readouterr()
    assert runs.here(given) == status
    error = capfd.readouterr().err
    assert error.startswith("cd_jax: "), error
    assert error.count("\n") == 1, error
    assert "In call to" not in error
    for word in words:
        assert word in error
    return error


# Help


def test_help_has_a_line_for_every_verb(user_environment):
    shown = subprocess.run(
        [sys.executable, "-m", "cd_jax", "--help"],
        env=user_environment | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    for verb, known in verbs.find().items():
        assert re.search(rf"^    {verb} +{re.escape(known.help)}$", shown.stdout, re.M), verb


def test_help_does_not_wait_for_jax(user_environment):
    program = (
        "import sys; from cd_jax.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print(sorted({'jax', 'tensorflow', 'gin', 'flax'} & set(sys.modules)), file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", program], env=user_environment, capture_output=True, text=True)
    assert shown.stderr == "[]\n"


def test_the_help_of_a_verb_shows_its_macros_and_does_not_wait_for_jax(user_environment):
    program = (
        "import sys; from cd_jax.cli import main\n"
        "try: main(['train', '--help'])\n"
        "finally: print(sorted({'jax', 'tensorflow', 'flax'} & set(sys.modules)), file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", program], env=user_environment, capture_output=True, text=True)
    assert shown.stderr == "[]\n"
    for line in ("    AGENT = (required)", "    BATCH_SIZE = 64", "    LEARNING_RATE = 0.03", "    BABI_DIR = None"):
        assert f"\n{line}\n" in shown.stdout
    assert "AGENT: 'baseline', 'cd_finetune' or 'cd_memory'" in shown.stdout
    assert "gin/models/tiny.gin" in shown.stdout


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"cd_jax {importlib.metadata.version('cd_jax')}\n"


@pytest.mark.parametrize("verb", verbs.find())
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main([verb, "--help"])
    assert done.value.code == 0
    assert "--model_dir" in capsys.readouterr().out


# Requests that are wrong: flags and gin


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], ["VERB", "--help"]),
        (["trian"], ["trian", "train"]),
        (["train"], ["--model_dir"]),
        (["train", "--model_dir=x", "--steps=3"], ["--steps=3"]),
        (["train", "--model_dir=x", "--gin.SEED"], ["--gin.NAME=VALUE"]),
        (["train", "--model_dir=x", "--gin_file=runs/nothing.gin"], ["runs/nothing.gin", "no such gin file"]),
        (["demo", "--seeds", "one"], ["--seeds", "one"]),
        (["demo", "--gin.SEED=3"], ["--gin.SEED", "SEEDS"]),
        (["report", "--model_dir=x", "--gin.SEEDS=[3]"], ["--gin"]),
        (["demo", "--direction=sideways"], ["sideways", "babi_to_com2sense"]),
        (["tasks", "babi_short", "--split=dev"], ["dev", "validation"]),
        (["tasks", "babi_short", "--num_examples=-1"], ["--num_examples", "-1"]),
        (["tasks", "babi_short", "--write=gs://bucket/x"], ["--write=gs://bucket/x", "local"]),
        (["import", "x", "--model_dir=y", "--vocabulary=gs://bucket/v"], ["--vocabulary=gs://bucket/v", "local"]),
        (["demo", "--model_dir=s3://bucket/run"], ["s3://bucket/run", "gs://BUCKET"]),
        (["tasks", "--babi_dir=/nope"], ["/nope", "tasks_1-20_v1-2"]),
        (["tasks", "--com2sense_dir=/nope"], ["/nope", "train.json"]),
        (["tasks", "--tfds_data_dir=/nope"], ["/nope", "tfds build"]),
        (["tasks", "--module_import=nowhere_at_all"], ["--module_import=nowhere_at_all", "No module named"]),
        (["train", "--model_dir=x", "--gin_bindings=SEED"], ["--gin_bindings=SEED", "NAME = VALUE"]),
        (["demo", "--model_dir=x", "--gin_bindings=TRAIN_STEPS = 0"], ["TRAIN_STEPS=0", "at least 1"]),
    ],
)
def test_wrong_flags(given, words, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(capfd, given, *words)
    assert not list(tmp_path.iterdir())


BOUND = {"AGENT": "'cd_memory'", "SOURCE": "'babi_qa1'"}


@pytest.mark.parametrize(
    ("bindings", "words"),
    [
        ({}, ["AGENT is not bound", "--gin.AGENT="]),
        ({"AGENT": "'cd_memory'"}, ["SOURCE is not bound", "--gin.SOURCE="]),
        (BOUND | {"TRIAN_STEPS": "3"}, ["--gin.TRIAN_STEPS", "did you mean TRAIN_STEPS?"]),
        (BOUND | {"XYZZY": "3"}, ["--gin.XYZZY", "BATCH_SIZE"]),
        (BOUND | {"trainer__seed": "3"}, ["--gin.trainer.seed=3", "'trainer'"]),
        (BOUND | {"train__sed": "3"}, ["--gin.train.sed=3", "'sed'"]),
        (BOUND | {"SEED": "[1"}, ["--gin.SEED=[1", "not a value"]),
        (BOUND | {"SOURCE": "babi_qa1"}, ["--gin.SOURCE=babi_qa1", "\"'text'\""]),
        (BOUND | {"BATCH_SIZE": "'64'"}, ["--gin.BATCH_SIZE='64'", "a whole number"]),
        (BOUND | {"TRAIN_STEPS": "1e3"}, ["--gin.TRAIN_STEPS=1000.0", "a whole number"]),
        (BOUND | {"train__eval_per_task": "'4'"}, ["train.eval_per_task='4'", "a whole number of at least 1 or None"]),
        (BOUND | {"Solver__optimizer": "@optax.adamm"}, ["@optax.adamm"]),
        (BOUND | {"AGENT": "'cd_memry'"}, ["cd_memry", "cd_memory"]),
        (BOUND | {"SOURCE": "'babi_q1'"}, ["babi_q1", "cd_jax tasks"]),
        (BOUND | {"train__log_period": "7"}, ["train.log_period=7", "EVAL_PERIOD=100|eval_period=100"]),
        (BOUND | {"MESH_MODEL": "3"}, ["MESH_MODEL=3", "8 devices"]),
        (BOUND | {"BATCH_SIZE": "12"}, ["batch_size=12", "8"]),
        (BOUND | {"SelfLearningProcess__eval_batch_size": "12"}, ["eval_batch_size=12", "8"]),
        (BOUND | {"train__distilled": "'/nowhere'"}, ["/nowhere/vocabulary.model", "cd_jax distill"]),
        (BOUND | {"EpisodicMemory__capacity": "2"}, ["num_queries=2", "2 updates"]),
        (BOUND | {"EpisodicMemory__index": "None"}, ["EpisodicMemory.index", "@DeviceIndex"]),
        (BOUND | {"DeviceIndex__metric": "'l1'"}, ["DeviceIndex.metric='l1'", "cosine"]),
        (BOUND | {"TRAIN_RETRIEVAL": "'sometimes'"}, ["train_retrieval='sometimes'", "random, fixed, off"]),
        (BOUND | {"CONTRASTIVE_WEIGHT": "1.0", "SAMPLER": "'easy'"}, ["Contrast.sampler='easy'", "bayesian"]),
        (BOUND | {"CONTRASTIVE_WEIGHT": "1.0", "NUM_NEGATIVES": "1001"}, ["num_negatives=1001", "1000 or less"]),
    ],
)  # fmt: skip
def test_wrong_bindings_change_nothing(bindings, words, distilled, tmp_path, capfd):
    folder = tmp_path / "run"
    known = {"train__distilled": f"'{distilled}'"} if "AGENT" in bindings and "SOURCE" in bindings else {}
    given = {**known, **bindings}
    if given.get("SOURCE") == "'babi_qa1'":
        given["SOURCE"] = f"'{runs.SOURCE}'"
    error = refused(capfd, runs.arguments("train", folder, **given))
    for word in words:
        assert any(choice in error for choice in word.split("|")), error
    assert not folder.exists()


def test_a_folder_of_runs_in_the_working_folder_is_not_taken_for_a_package(tmp_path, user_environment):
    (tmp_path / "runs").mkdir()
    given = [sys.executable, "-m", "cd_jax", "train", "--model_dir=x"]
    process = subprocess.run(given, cwd=tmp_path, env=user_environment, capture_output=True, text=True, timeout=300)
    assert "AGENT is not bound" in process.stderr


def test_a_gin_file_that_is_wrong_is_named_with_its_line(tmp_path, capfd):
    file = tmp_path / "mine.gin"
    file.write_text("include 'runs/distill.gin'\nSOURCE = 'babi_qa1'\ndistil.seed = 1\n")
    refused(capfd, ["distill", f"--model_dir={tmp_path / 'run'}", f"--gin_file={file}"], f"{file}:3: ", "'distil'")
    file.write_text("include 'runs/distill.gin'\nSOURCE = 'babi_qa1\n")
    refused(capfd, ["distill", f"--model_dir={tmp_path / 'run'}", f"--gin_file={file}"], f"{file}:2: ")
    file.write_text("NUM_UPDTES = 3\n")
    refused(
        capfd,
        ["distill", f"--model_dir={tmp_path / 'run'}", f"--gin_file={file}", "--gin.SOURCE='babi_qa1'"],
        "NUM_UPDTES: nothing reads this macro; did you mean NUM_UPDATES?",
    )
    assert not (tmp_path / "run").exists()


# Requests that are wrong: data


def babi_folder(folder, train: str = WORLD):
    folder.mkdir()
    for suffix in ("train", "valid", "test"):
        (folder / f"qa1_{suffix}.txt").write_text(WORLD)
    (folder / "qa1_train.txt").write_text(train)
    return folder


def distill_babi(folder, model_dir) -> list[str]:
    return runs.arguments("distill", model_dir, f"--babi_dir={folder}", SOURCE="'babi_qa1'")


def test_a_well_formed_folder_serves(tmp_path):
    assert runs.here(distill_babi(babi_folder(tmp_path / "data"), tmp_path / "run")) == 0
    assert len((tmp_path / "run" / "updates.jsonl").read_text().splitlines()) >= 2


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (WORLD.replace("2 Sandra", "Sandra"), 5),
        (WORLD.replace("\tbathroom\t1", ""), 3),
        (WORLD.replace("\thallway\t1", "\thallway\t7"), 6),
    ],
)
def test_a_malformed_line_of_babi(broken, line, tmp_path, capfd):
    folder = babi_folder(tmp_path / "data", broken)
    refused(capfd, distill_babi(folder, tmp_path / "run"), f"{folder}/qa1_train.txt:{line}: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("empty", ["", "\n"])
def test_an_empty_file_of_babi(empty, tmp_path, capfd):
    folder = babi_folder(tmp_path / "data", empty)
    refused(capfd, distill_babi(folder, tmp_path / "run"), f"{folder}/qa1_train.txt: is empty; ")
    assert not (tmp_path / "run").exists()


def test_missing_folders_and_files(tmp_path, capfd):
    nowhere, run = tmp_path / "nowhere", tmp_path / "run"
    refused(capfd, distill_babi(nowhere, run), str(nowhere), "--babi_dir")
    ask = runs.arguments("distill", run, f"--com2sense_dir={nowhere}", SOURCE="'com2sense'")
    refused(capfd, ask, str(nowhere), "--com2sense_dir")
    nowhere.mkdir()
    row = {"id": "a", "sent": "Ice is cold.", "label": "True"}
    (nowhere / "train.json").write_text(json.dumps([row]))
    refused(capfd, ask, "pair_id_train.json", "no such file")
    for verb in ("eval", "infer", "report"):
        refused(capfd, [verb, f"--model_dir={run}"], str(run))
    assert not run.exists()


# Requests that are wrong: a model_dir of something else


@pytest.mark.parametrize(
    ("bindings", "words"),
    [
        ({"T5Config__emb_dim": 48}, ["network.emb_dim=32", "not 48"]),
        ({"T5Config__dropout_rate": 0.5}, ["solver.dropout_rate=0.0", "not 0.5"]),
        ({"AGENT": "'cd_finetune'"}, ["agent='cd_memory'", "'cd_finetune'"]),
        ({"SEED": 1}, ["seed=0", "not 1"]),
        ({"BATCH_SIZE": 4}, ["batch_size=2", "not 4"]),
        ({"NUM_QUERIES": 3}, ["process.num_queries=2", "not 3"]),
        ({"ANSWER_WEIGHT": 5.0}, ["process.answer_weight=2.0", "not 5.0"]),
        ({"Solver__optimizer": "@optax.adamw"}, ["optimizer='adafactor'", "not 'adamw'"]),
    ],
)
def test_another_runs_checkpoint_is_refused(bindings, words, trained, distilled, capfd):
    folder, _ = trained
    before = runs.snapshot(folder)
    refused(capfd, runs.train_arguments(folder, distilled, MESH_MODEL=4, MESH_DATA=2, **bindings), str(folder), *words)
    assert runs.snapshot(folder) == before


def test_another_networks_checkpoint_is_not_decoded(trained, capfd):
    folder, _ = trained
    before = runs.snapshot(folder)
    refused(capfd, runs.arguments("eval", folder, T5Config__emb_dim=48), str(folder), "network.emb_dim=32, not 48")
    refused(capfd, runs.arguments("infer", folder), "--prompt", "--gin.TASK")
    assert runs.snapshot(folder) == before


# Evaluation of a run that `train` left


def test_eval_and_infer_read_the_runs_own_config(trained, tmp_path, capfd):
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    # As runs of before have it.
    (folder / "config.gin").write_text((folder / "config.gin").read_text() + "fill_memory.capacity = 1000\n")
    files = {path.name for path in folder.iterdir()}
    given = {"EVAL_PER_TASK": 3, "SOURCE_PER_TASK": 3, "TARGETS": "['babi_qa13_short']"}
    assert runs.here(runs.arguments("eval", folder, **given)) == 0
    best = json.loads((folder / "results.json").read_text())["runs"][0]["best_step"]
    [run] = json.loads((folder / "results.json").read_text())["runs"]
    assert (run["agent"], run["seed"], run["steps"], run["stopped_by"]) == ("cd_memory", 0, runs.STEPS, "budget")
    assert (run["source"]["task"], run["source"]["n"]) == (runs.SOURCE, 3)
    assert [(target["task"], target["n"]) for target in run["targets"]] == [("babi_qa13_short", 3)]
    lines = (folder / "inference" / f"babi_qa13_short-{best}.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert sum(json.loads(line)["correct"] for line in lines) / 3 == pytest.approx(run["targets"][0]["accuracy"])
    assert {path.name for path in folder.iterdir()} == files | {"results.json", "inference"}
    capfd.readouterr()
    assert runs.here(["infer", f"--model_dir={folder}", "--prompt=Mary went to the office. Where is Mary?"]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    assert len(re.findall(r"^retrieved \(", said.out, re.M)) == 2
    assert re.search(r"^generation: .*\nanswer: ", said.out, re.M)


# What a user sees of it in a process of its own


def test_nothing_but_the_one_line_stands_on_stderr(tmp_path, user_environment):
    folder = babi_folder(tmp_path / "data", WORLD.replace("2 Sandra", "Sandra"))
    process = runs.command(distill_babi(folder, tmp_path / "run"), user_environment)
    assert process.returncode == 2
    assert process.stderr.startswith(f"cd_jax: {folder}/qa1_train.txt:5: ")
    assert process.stderr.count("\n") == 1
    assert process.stdout == ""


def test_debug_shows_the_traceback(tmp_path, capfd):
    given = distill_babi(babi_folder(tmp_path / "data", "x"), tmp_path / "run")
    assert runs.here([*given, "--debug"]) == 2
    error = capfd.readouterr().err
    assert error.startswith("Traceback")
    assert "format.py" in error
    assert error.splitlines()[-1].startswith("cd_jax: ")


def test_what_nobody_foresaw_is_one_line_too(tmp_path, capfd, monkeypatch):
    from cd_jax.learning import distillation

    def fall(*_):
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(distillation.vocabularies, "train", fall)
    given = distill_babi(babi_folder(tmp_path / "data"), tmp_path / "run")
    refused(capfd, given, "ZeroDivisionError", "by zero", "--debug", status=1)
    assert runs.here([*given, "--debug"]) == 1
    assert "in fall" in capfd.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere: run the tests as a user")
def test_a_folder_that_cannot_be_written(tmp_path, capfd):
    folder = babi_folder(tmp_path / "data")
    (tmp_path / "shut").mkdir(mode=0o500)
    refused(capfd, distill_babi(folder, tmp_path / "shut" / "run"), str(tmp_path / "shut"), status=1)


# The demo in miniature

DEMO = {
    **{name.replace(".", "__"): value for name, value in runs.BINDINGS.items() if name != "PATIENCE"},
    "TARGETS": "['babi_qa13_short']",
    "TRAIN_STEPS": 6,
    "EVAL_PER_TASK": 3,
    "SOURCE_PER_TASK": 3,
}


@pytest.mark.slow
def test_the_demo_in_miniature(tmp_path, user_environment, capfd):
    folder = tmp_path / "demo"
    given = runs.arguments("demo", folder, **DEMO)
    process = runs.command(given, user_environment)
    assert (process.returncode, process.stderr) == (0, "")
    agents = ("baseline", "cd_finetune", "cd_memory")
    written = {"config.gin", "updates.jsonl", "vocabulary.model", "results.json", "report.html"}
    assert written <= {path.name for path in folder.iterdir()}
    results = json.loads((folder / "results.json").read_text())
    assert {"versions", "seeds", "commit", "hardware"} <= results["meta"].keys()
    assert [run["agent"] for run in results["runs"]] == list(agents)
    for run in results["runs"]:
        assert run["stopped_by"] in ("plateau", "budget")
        assert run["steps"] == 6
        assert [target["task"] for target in run["targets"]] == ["babi_qa13_short"]
    for agent in agents:
        run_dir = folder / f"{agent}-seed0"
        assert {"config.gin", "checkpoints", "metrics.jsonl", "inference", "results.json"} <= {
            path.name for path in run_dir.iterdir()
        }
        assert (run_dir / "memory").exists() == (agent == "cd_memory")
        assert [path.suffix for path in sorted((run_dir / "inference").iterdir())] == [".jsonl"] * 2
    assert "report.html" in process.stdout

    # Once more: all is done. In this process, where a batch of 2 fits by a mesh of one row; nothing is computed anew.
    before = runs.snapshot(folder)
    refused(capfd, runs.arguments("demo", folder, **DEMO | {"MESH_MODEL": 8}), f"{folder}/config.gin", "MESH_MODEL")
    refused(capfd, runs.arguments("demo", folder, **DEMO | {"ANSWER_WEIGHT": 3.0}), "ANSWER_WEIGHT = 2.0", "not 3.0")
    assert runs.snapshot(folder) == before
    again = runs.command(given, user_environment)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.count("is done: 6 steps") == 3
    after = runs.snapshot(folder)
    assert after.keys() == before.keys()
    rewritten = {name for name in after if after[name] != before[name] and after[name][1]}
    assert rewritten <= {"config.gin", "results.json", "report.html"}
    assert json.loads((folder / "results.json").read_text()) == results


def test_who_reads_nothing_sees_no_error(user_environment):
    # `true` has closed the pipe long before anything is written: `head` might be slower than the program.
    command = f"{sys.executable} -m cd_jax tasks | true"
    done = subprocess.run(["bash", "-c", command], env=user_environment, capture_output=True, text=True)
    assert done.stderr == ""


def test_the_list_of_tasks_begins_with_where_the_data_is(capfd):
    assert runs.here(["tasks"]) == 0
    first, *_ = capfd.readouterr().out.splitlines()
    assert first == "bAbI from the embedded worlds; Com2Sense from the embedded pairs"
