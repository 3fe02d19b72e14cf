"""The Beam pipeline against the single process."""

import json
import os
import subprocess
import sys

import pytest
import teacher_server

from cd_jax.rundir import requests as journal

pytest.importorskip("apache_beam", reason="apache-beam is not installed (pip install 'cd_jax[tfds]')")

WORKERS = {"one": "", "several": "--direct_num_workers=3 --direct_running_mode=multi_processing"}


def distill(folder, server, *flags):
    environment = os.environ | {"OPENAI_API_KEY": "sk-0123456789", "NO_PROXY": "127.0.0.1", "JAX_PLATFORMS": "cpu"}
    given = {
        "SOURCE": "'babi_low_data'", "distill.teacher": "@OpenAITeacher", "OpenAITeacher.model": "'m'",
        "OpenAITeacher.base_url": f"'{server.url}'", "TeacherSampling.choices": 2,
        "FILTERS": "[@NearDuplicate(), @Unfaithful()]", "NearDuplicate.similarity": 0.6,
    }  # fmt: skip
    bound = [f"--gin.{name}={value}" for name, value in given.items()]
    command = [sys.executable, "-m", "cd_jax", "distill", f"--model_dir={folder}", *bound, *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shards(folder, name):
    return sorted(line for path in folder.glob(f"{name}-*") for line in path.read_text().splitlines())


@pytest.fixture(scope="module")
def online(tmp_path_factory):
    folder = tmp_path_factory.mktemp("online")
    with teacher_server.serve(citing=True) as server:
        distill(folder, server)
    return folder, server


@pytest.mark.parametrize("workers", list(WORKERS))
def test_gives_what_a_single_process_gives(tmp_path, online, workers):
    folder, server = online
    seen = sum(server.seen.values())
    distill(folder, server, f"--pipeline={tmp_path}", f"--pipeline_options=--runner=DirectRunner {WORKERS[workers]}")
    for name in ("updates", "rejected"):
        expected = (folder / f"{name}.jsonl").read_text().splitlines()
        assert shards(tmp_path, name) == sorted(expected) and expected
    assert shards(tmp_path, "missing") == []
    assert sum(server.seen.values()) == seen


def test_says_what_is_missing(tmp_path, online):
    folder, server = online
    lines = (folder / journal.NAME).read_text().splitlines(keepends=True)
    answered = [line for line in lines if json.loads(line)["line"] == "answered"]
    (tmp_path / journal.NAME).write_text("".join(answered[5:]))
    distill(tmp_path, server, f"--pipeline={tmp_path}/out")
    missing = {json.loads(line)["request"] for line in shards(tmp_path / "out", "missing")}
    assert missing and missing <= {json.loads(line)["request"] for line in answered[:5]}
