"""A `--model_dir=gs://…`: every verb keeps the address; a run in the bucket of a server is as one on a disk."""

import json
import pathlib
import shutil
import sys

import gin
import objects
import orbax.checkpoint as ocp
import pytest
import runs
import seqio
import test_report
from clu import metric_writers

from cd_jax import api
from cd_jax.config import library
from cd_jax.config.configuration import Configuration
from cd_jax.errors import RequestError
from cd_jax.rundir.checkpoints import Checkpoints

RUN, DISTILLED = f"{objects.NAME}/run", f"{objects.NAME}/distilled"


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """Objects in a folder, and a working folder in which nothing may appear."""
    folder = objects.stand_in(monkeypatch, tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield folder
    assert not list(pathlib.Path().iterdir())
    gin.clear_config()


@pytest.fixture
def libraries(monkeypatch, bucket):
    """The libraries that ask buckets by themselves find the objects, too. Each must be given the address."""

    def there(path) -> str:
        assert str(path).startswith(f"{objects.NAME}/"), path
        return str(path).replace("gs://", f"{bucket.parent}/", 1)

    gfile = seqio.vocabularies.tf.io.gfile
    read = gfile.GFile
    monkeypatch.setattr(gfile, "GFile", lambda path, *mode: read(there(path), *mode))
    events = metric_writers.SummaryWriter
    monkeypatch.setattr(metric_writers, "SummaryWriter", lambda path: events(there(path)))
    manager, checkpointer = ocp.CheckpointManager, ocp.Checkpointer
    monkeypatch.setattr(ocp, "CheckpointManager", lambda path, **more: manager(there(path), **more))

    class Found(checkpointer):
        def restore(self, path, **more):
            return super().restore(there(path), **more)

    monkeypatch.setattr(ocp, "Checkpointer", Found)
    monkeypatch.setattr("cd_jax.rundir.checkpoints._check_client", lambda folder: None)
    return bucket


def told(capfd) -> str:
    said = capfd.readouterr()
    assert "gs:/b" not in said.out + said.err
    return said.out + said.err


def test_a_run_is_trained_in_a_bucket(libraries, capfd):
    assert runs.here(runs.arguments("distill", DISTILLED, SOURCE=f"'{runs.SOURCE}'")) == 0
    assert f"in {DISTILLED}/updates.jsonl" in told(capfd)
    bound = {"AGENT": "'baseline'", "MESH_DATA": 2, "MESH_MODEL": 4, "TRAIN_STEPS": 4}
    assert runs.here(runs.train_arguments(RUN, DISTILLED, **bound)) == 0
    assert "ended: 4 of 4 steps" in told(capfd)
    run = libraries / "run"
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 4]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["4"]
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    assert (run / "config.gin").read_text().count(DISTILLED) == 1
    assert (run / "vocabulary.model").read_bytes() == (libraries / "distilled" / "vocabulary.model").read_bytes()


def test_a_run_in_a_bucket_is_asked_told_and_reported(libraries, trained, capfd):
    shutil.copytree(trained[0], libraries / "run")
    assert runs.here(["infer", f"--model_dir={RUN}", "--prompt=John went to the office. Where is John?"]) == 0
    assert "answer: " in told(capfd)
    assert runs.here(runs.arguments("remember", RUN, SOURCE="'babi_qa2_low_data'")) == 0
    assert f"{RUN}/memory holds" in told(capfd)
    assert len((libraries / "run" / "memory" / "entries.jsonl").read_text().splitlines()) == 30


def test_an_experiment_in_a_bucket_is_reported(bucket, capfd):
    for seed, scores in enumerate(test_report.SCORES["baseline"]):
        test_report.make_run(bucket / "demo", "baseline", seed, scores)
    assert runs.here(["report", f"--model_dir={objects.NAME}/demo"]) == 0
    said = told(capfd)
    assert f"report:   {objects.NAME}/demo/report.html" in said and f"{objects.NAME}/demo/baseline-seed2" in said
    assert len(json.loads((bucket / "demo" / "results.json").read_text())["runs"]) == 3
    assert "baseline" in (bucket / "demo" / "report.html").read_text()


# Bindings of a run in a bucket


def configure(*files: str, trust: bool = False, statements=("AGENT = 'baseline'", "SOURCE = 'babi_qa1'")) -> None:
    Configuration([library.packaged("runs/train.gin"), *files], statements, trust=trust).apply()


@pytest.mark.parametrize(
    ("mark", "name"), [("checkpoints/4/x", "a.gin"), ("updates.jsonl", "deep/a.gin"), ("nothing", "config.gin")]
)
def test_a_gin_file_of_a_run_in_a_bucket_is_no_code(mark, name, bucket):
    place = f"{RUN}/{name}"
    for written, text in ((mark, ""), (name, "SEED = 7\n\nimport antigravity\n")):
        (bucket / "run" / written).parent.mkdir(parents=True, exist_ok=True)
        (bucket / "run" / written).write_text(text)
    (bucket / "mine.gin").write_text(f"include '{place}'\n")
    for file in (place, f"{objects.NAME}/mine.gin"):
        with pytest.raises(RequestError, match=f"^{place}:3: `import antigravity` runs code"):
            configure(library.find(file))
    (bucket / "run" / name).write_text("SEED = 7\nSolver.optimizer = @distill()\n")
    with pytest.raises(RequestError, match=f"^{place}:2: @distill runs a command"):
        configure(library.find(place))
    configure(library.find(place), trust=True)


def test_ones_own_gin_file_in_a_bucket_may_be_code(bucket):
    (bucket / "mine").mkdir(parents=True)
    (bucket / "mine" / "a.gin").write_text("import uuid\ninclude 'b.gin'\n")
    (bucket / "mine" / "b.gin").write_text("\ntrain.sed = 3\n")
    with pytest.raises(RequestError, match=f"^{objects.NAME}/mine/b.gin:2: .*'sed'"):
        Configuration(
            [library.packaged("runs/train.gin"), library.find(f"{objects.NAME}/mine/a.gin")],
            ["AGENT = 'baseline'", "SOURCE = 'babi_qa1'"],
            [f"{objects.NAME}/mine"],
        ).apply()
    with pytest.raises(RequestError, match=f"^{objects.NAME}/mine/c.gin: no such gin file"):
        library.find(f"{objects.NAME}/mine/c.gin")


def test_an_agent_in_a_bucket_is_found(bucket):
    (bucket / "agents").mkdir(parents=True)
    (bucket / "agents" / "mine.gin").write_text("SEED = 7\n")
    bound = ["AGENT = 'mine'", "SOURCE = 'babi_qa1'"]
    Configuration([library.packaged("runs/train.gin")], bound, [objects.NAME]).apply()
    assert gin.query_parameter("SEED/macro.value") == 7


# What is refused


def refused(capfd, given: list[str]) -> str:
    assert runs.here(given) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("address", ["s3://bucket/run", "gs:/bucket/run", "http://bucket/run"])
def test_other_addresses_are_refused(address, bucket, capfd):
    assert f"--model_dir={address}: give a local path or gs://" in refused(capfd, ["train", f"--model_dir={address}"])


def test_a_run_that_is_not_there_is_told_by_its_address(bucket, capfd):
    assert f"{RUN}/config.gin: no such file" in refused(capfd, ["infer", f"--model_dir={RUN}", "--prompt=x"])
    assert f"{RUN}: no such folder" in refused(capfd, ["report", f"--model_dir={RUN}"])
    with pytest.raises(RequestError, match=f"^{RUN}/config.gin: no such file"):
        api.load(RUN)


def test_an_export_goes_to_a_disk(bucket, capfd):
    (bucket / "run").mkdir(parents=True)
    (bucket / "run" / "config.gin").write_text("AGENT = 'baseline'\n")
    given = ["export", f"--model_dir={RUN}", "--format=hf"]
    assert f"--model_dir={RUN}: is in a bucket; give a local folder" in refused(capfd, given)
    assert "--output=gs://bucket/out: give a local path" in refused(capfd, [*given, "--output=gs://bucket/out"])


def test_what_to_install_is_said_before_anything_is_trained(bucket, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    with pytest.raises(RequestError, match=r"^gs://bucket/run/checkpoints: .* pip install 'cd_jax\[gcs\]'$"):
        Checkpoints(RUN)
