"""Runs in the bucket of a server, by the clients that users have: TensorFlow's, TensorStore's, Google's own."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys

import buckets
import pytest
import runs
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from cd_jax.rundir.checkpoints import Checkpoints

pytestmark = pytest.mark.slow

RUN, DISTILLED = f"gs://{buckets.NAME}/runs/one", f"gs://{buckets.NAME}/distilled"
CLOCKS = ("examples_per_second", "train_seconds")


@pytest.fixture(scope="module")
def served(tmp_path_factory, user_environment):
    """The environment of a user who has the bucket, and a folder with what `cd_jax distill` wrote in it."""
    with buckets.serve(tmp_path_factory.mktemp("certificate")) as found:
        yield {**user_environment, **found}


def client(environment: dict[str, str]) -> storage.Client:
    endpoint = {"api_endpoint": environment["STORAGE_EMULATOR_HOST"]}
    return storage.Client("nobodys", AnonymousCredentials(), client_options=endpoint)


def copied(prefix: str, folder: pathlib.Path, environment: dict[str, str]) -> pathlib.Path:
    """What Google's client finds below a prefix of the bucket."""
    for blob in client(environment).list_blobs(buckets.NAME, prefix=f"{prefix}/"):
        if not blob.name.endswith("/"):
            path = folder / blob.name.removeprefix(f"{prefix}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            blob.download_to_filename(path)
    return folder


def metrics_of(run: pathlib.Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCKS} for line in lines]


def test_a_run_that_is_killed_comes_to_the_same_end(trained, distilled, served, tmp_path, monkeypatch):
    """Distilled, trained, killed, ended, taken up, evaluated, asked, told, reported, exported: as one on a disk."""
    monkeypatch.chdir(tmp_path)

    def done(*given: str) -> str:
        found = runs.command(list(given), served)
        assert found.returncode == 0, found.stderr
        assert "gs:/b" not in found.stdout + found.stderr
        return found.stdout

    done(*runs.arguments("distill", DISTILLED, SOURCE=f"'{runs.SOURCE}'"))
    there = copied("distilled", tmp_path / "distilled", served)
    for name in ("updates.jsonl", "vocabulary.model"):
        assert (there / name).read_bytes() == (distilled / name).read_bytes()

    train = runs.train_arguments(RUN, DISTILLED)
    for step, what, status in ((6, "kill", -signal.SIGKILL), (10, "SIGTERM", 143)):
        ended = runs.command_until(step, what, RUN, train, served)
        assert ended.returncode == status, ended.stderr
    assert f"saved at step 10 in {RUN}" in ended.stderr
    assert f"resumes from step 10 in {RUN}" in done(*train)

    run, whole = copied("runs/one", tmp_path / "run", served), trained[0]
    assert metrics_of(run) == metrics_of(whole)
    progress, expected = (Checkpoints(folder, read_only=True).progress(runs.STEPS) for folder in (run, whole))
    assert progress.fingerprints == expected.fingerprints and len(progress.fingerprints) > 50
    assert progress.validation == expected.validation
    assert progress.parameters[str(runs.STEPS)] == expected.parameters[str(runs.STEPS)]
    assert (run / "memory" / "entries.jsonl").read_bytes() == (whole / "memory" / "entries.jsonl").read_bytes()
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert kept == sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert sum(path.stat().st_size for path in run.glob("events.out.tfevents.*")) > 0

    local = shutil.copytree(whole, tmp_path / "local")
    asked = ["infer", "--prompt=John went to the office. Where is John?"]
    for folder in (RUN, local):
        done(*runs.arguments("eval", folder, EVAL_PER_TASK=4))
    answers = [done(*asked, f"--model_dir={folder}") for folder in (RUN, local)]
    assert answers[0] == answers[1]
    assert f"{RUN}/memory holds" in done(*runs.arguments("remember", RUN, SOURCE="'babi_qa2_low_data'"))
    assert f"report:   {RUN}/report.html" in done("report", f"--model_dir={RUN}")
    done("export", f"--model_dir={RUN}", "--format=hf", f"--output={tmp_path / 'exported'}")
    done(*runs.arguments("export", local, "--format=hf", f"--output={tmp_path / 'expected'}"))
    exported, wanted = (tmp_path / name / "model.safetensors" for name in ("exported", "expected"))
    assert exported.read_bytes() == wanted.read_bytes()

    run = copied("runs/one", tmp_path / "evaluated", served)
    scored, wanted = (json.loads((folder / "results.json").read_text())["runs"] for folder in (run, local))
    assert scored[0]["source"] == wanted[0]["source"]
    assert (run / "report.html").stat().st_size > 0
    assert not (tmp_path / "gs:").exists()


def test_a_demo_goes_on_in_a_bucket(served, tmp_path, monkeypatch):
    """Another command with the same folder does nothing anew, and an experiment lies where its folder is."""
    monkeypatch.chdir(tmp_path)
    folder = f"gs://{buckets.NAME}/demo"
    bound = {name: value for name, value in runs.BINDINGS.items() if name != "SOURCE"}
    bound |= {"AGENTS": "['baseline']", "SOURCE_PER_TASK": 2, "EVAL_PER_TASK": 2, "BATCH_SIZE": 8, "TRAIN_STEPS": 8}
    given = runs.arguments("demo", folder, **{name.replace(".", "__"): value for name, value in bound.items()})
    first, again = (runs.command(given, served) for _ in range(2))
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert f"report:   {folder}/report.html" in first.stdout and "step 8/8" in first.stdout
    assert "step 8/8" not in again.stdout
    assert (copied("demo", tmp_path / "demo", served) / "baseline-seed0" / "results.json").is_file()


_ADDS = """
import asyncio
from cd_jax.rundir import journal, requests
folder = "gs://bucket/journals"
print(journal.repair(f"{folder}/cut.jsonl"), journal.repair(f"{folder}/empty.jsonl"))
journal.append(f"{folder}/cut.jsonl", [{"a": 2}])
for name in "ab":
    kept = requests.Requests(folder)
    kept.send(name, requests.Tokens(30, 20))
    asyncio.run(kept.answer(name, requests.Answer((requests.Choice(f"because {name}"),), usage=(7, 3))))
    kept.send("c", requests.Tokens(30, 20))
    kept.close()
kept = requests.Requests(folder)
print(sorted(kept.answers), kept.requests, *kept.tokens)
"""


def test_files_of_lines_are_mended_and_grow(served, tmp_path):
    """As copies of those that a kill has cut on a disk."""
    bucket = client(served).bucket(buckets.NAME)
    bucket.blob("journals/cut.jsonl").upload_from_string('{"a": 1}\n{"a": 1')
    bucket.blob("journals/empty.jsonl").upload_from_string("")
    found = subprocess.run([sys.executable, "-c", _ADDS], env=served, capture_output=True, text=True, timeout=120)
    assert found.stdout.splitlines() == ["7 0", "['a', 'b'] 4 74 46"], found.stderr
    assert bucket.blob("journals/cut.jsonl").download_as_text() == '{"a": 1}\n{"a": 2}\n'


@pytest.mark.parametrize("verb", ["distill", "train"])
def test_a_bucket_that_is_not_there_is_told_in_one_line(verb, served, distilled):
    folder = "gs://nowhere/run"
    given = {
        "distill": runs.arguments("distill", folder, SOURCE=f"'{runs.SOURCE}'"),
        "train": runs.train_arguments(folder, distilled),
    }[verb]
    found = runs.command(given, served)
    told = [line for line in found.stderr.splitlines() if line.startswith("cd_jax: ")]
    assert found.returncode == 2, found.stderr
    assert told == [f"cd_jax: {folder}: there is no bucket gs://nowhere; make it, or name another one"]
