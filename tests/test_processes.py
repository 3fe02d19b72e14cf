"""Several processes of one command: what they say and decide, that they train as one does, and how they end."""

import argparse
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import runs

from cd_jax import processes
from cd_jax.errors import RequestError

# Of the smallest run: a batch and an evaluation that four devices divide, and a line of metrics a step.
BINDINGS = {
    "BATCH_SIZE": 8,
    "SelfLearningProcess__eval_batch_size": 8,
    "EVAL_PERIOD": 10,
    "TRAIN_STEPS": 20,
    "train__log_period": 1,
    "train__eval_per_task": 8,
}
# Of a program that meets others, and then runs what follows.
_MEETING = """
import sys
from cd_jax import processes
from cd_jax.errors import RequestError
from cd_jax.rundir import hosts
index, count, address, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
processes.join(processes.Asked(address, count, index, 1), True, folder)
said = []
"""


def address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def started(number, devices, given, environment):
    """The processes of a command; `given` is its command line."""
    where = address()
    flags = [f"--cpu_devices_per_process={devices}"]
    for index in range(number):
        own = [f"--coordinator_address={where}", f"--num_processes={number}", f"--process_id={index}"]
        command = [sys.executable, "-m", "cd_jax", *given, *flags, *(own if number > 1 else [])]
        yield subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )  # fmt: skip


def ended(running, timeout=240):
    """The exit status of each, what it said, and its error lines."""
    return [(one.communicate(timeout=timeout), one.returncode) for one in running]


def together(number, devices, given, environment):
    found = ended(list(started(number, devices, given, environment)))
    assert [status for _, status in found] == [0] * number, found
    return found


def lines_of(folder):
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def wait_for(folder, step, running):
    """Until the metrics of a step are there."""
    while not any(line["step"] >= step for line in lines_of(folder)):
        assert all(one.poll() is None for one in running), ended(running)
        time.sleep(0.05)


def figures(folder, *names):
    return [[line["step"], *(line.get(name, 0.0) for name in names)] for line in lines_of(folder)]


def assert_alike(found, expected, tolerance=1e-5):
    names = ("loss", "grad_norm", "contrastive_loss", "validation_error")
    np.testing.assert_allclose(figures(found, *names), figures(expected, *names), atol=tolerance)


@pytest.fixture
def environment(user_environment, tmp_path_factory):
    # All compile the same, and what one has compiled the next one finds.
    kept = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(tmp_path_factory.getbasetemp() / "compiled")
    return user_environment | {
        "JAX_COMPILATION_CACHE_DIR": kept,
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }


def meeting(number, body, environment, folder):
    """What each of some processes prints of a body."""
    where = address()
    programs = [[sys.executable, "-c", _MEETING + body, str(i), str(number), where, str(folder)] for i in range(number)]
    running = [
        subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for program in programs
    ]
    found = ended(running, 100)
    assert [status for _, status in found] == [0] * number, found
    others = [(folder / "logs" / f"process-{i}.log").read_text() for i in range(1, number)]
    return [found[0][0][0], *others]


class TestDeciding:
    def test_process_0_decides_writes_and_compares(self, environment, tmp_path):
        body = """
said.append(hosts.decide("step", 10 + index))
said.append(hosts.first("work", lambda: f"done by {index}"))
try:
    hosts.first("fault", lambda: (_ for _ in ()).throw(RequestError(f"of process {index}")))
except RequestError as error:
    said.append(str(error))
hosts.agree("data", lambda: {"digest": "same", "rows": [1, 2]}, "copy it again")
try:
    hosts.agree("data", lambda: {"digest": "same", "rows": [1, 2 + (index == 2)]}, "copy it again")
except RequestError as error:
    said.append(str(error))
from cd_jax.rundir import files, journal
files.write_text(f"{folder}/text-{index}", "x")
journal.append(f"{folder}/lines-{index}.jsonl", [{"a": 1}])
hosts.meet("written")
print(said)
hosts.leave()
"""
        found = meeting(3, body, environment, tmp_path)
        differs = "data: process 2 has rows = [1, 3], process 0 has [1, 2]; copy it again"
        for index, text in enumerate(found):
            said = eval(re.search(r"^\[.*\]$", text, re.MULTILINE)[0])
            assert said == [10, "done by 0" if index == 0 else None, "of process 0", differs]
        assert {path.name for path in tmp_path.iterdir()} == {"text-0", "lines-0.jsonl", "logs"}

    def test_one_that_does_not_come_is_told(self, environment, tmp_path):
        body = """
from cd_jax.errors import RunError
try:
    if index == 0:
        hosts.meet("the save", seconds=2)
except RunError as error:
    print(error)
hosts._here.turns = 100
hosts.leave()
"""
        said = meeting(2, body, environment, tmp_path)[0]
        assert "process 0 has waited 2 s at 'the save'" in said

    def test_a_process_alone_decides_for_itself(self):
        from cd_jax.rundir import hosts

        assert hosts.is_first() and hosts.is_alone() and hosts.decide("step", 3) == 3
        assert hosts.first("work", lambda: "done") == "done"
        hosts.agree("data", lambda: pytest.fail("there is nobody to compare with"), "")


class TestFlags:
    @pytest.mark.parametrize(
        "flags, said",
        [
            ("--num_processes=2", "--num_processes and --process_id go together"),
            ("--process_id=1", "--num_processes and --process_id go together"),
            ("--num_processes=2 --process_id=2 --coordinator_address=a:1", "--process_id=2 is none of 2 processes"),
            ("--num_processes=2 --process_id=1", "--coordinator_address lacks"),
            ("--cpu_devices_per_process=0", "--cpu_devices_per_process=0: give 1 or more"),
        ],
    )
    def test_those_that_do_not_go_together(self, flags, said):
        parser = argparse.ArgumentParser()
        processes.add_flags(parser)
        with pytest.raises(RequestError, match=re.escape(said)):
            processes.Asked.of(parser.parse_args(shlex.split(flags)))

    @pytest.mark.parametrize(
        "arguments, environment, announced",
        [
            ([], {}, False),
            (["--num_processes=2"], {}, True),
            (["--coordinator_address", "a:1"], {}, True),
            ([], {"CD_JAX_NUM_PROCESSES": "2"}, True),
            ([], {"SLURM_NTASKS": "1"}, False),
            ([], {"SLURM_NTASKS": "4"}, True),
            ([], {"OMPI_COMM_WORLD_SIZE": "2"}, True),
            ([], {"JOB_COMPLETION_INDEX": "0", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, True),
        ],
    )
    def test_who_announces_several(self, arguments, environment, announced):
        assert processes.are_announced(arguments, environment) is announced

    def test_what_all_must_have_alike_leaves_out_what_differs(self):
        given = ["train", "--num_processes", "2", "--process_id=1", "--model_dir", "a"]
        assert processes.command(given)["the arguments"] == ["train", "--model_dir=a"]

    def test_one_that_starts_alone_gives_up_in_one_line(self, environment, tmp_path):
        flags = f"--num_processes=2 --process_id=0 --coordinator_address={address()} --initialization_timeout=2"
        given = [*runs.arguments("train", tmp_path / "run", AGENT="'baseline'"), *shlex.split(flags)]
        found = runs.command(given, environment)
        assert found.returncode == 1
        assert re.fullmatch(
            r"cd_jax: process 0 of 2 has waited 2 s for the others at localhost:\d+; start the same command on every "
            r"host\n",
            found.stderr,
        )
        assert not (tmp_path / "run").exists()


def given(folder, distilled, **bindings):
    return runs.train_arguments(folder, distilled, **(BINDINGS | bindings))


def test_two_processes_train_as_one(distilled, environment, tmp_path):
    here, two = tmp_path / "here", tmp_path / "two"
    bound = {"AGENT": "'baseline'", "TRAIN_STEPS": 4, "EVAL_PERIOD": 4}
    assert runs.here(given(here, distilled, **bound)) == 0
    said, other = together(2, 4, given(two, distilled, **bound), environment)
    assert_alike(two, here)
    assert said[0][1] == "" and "step 4/4" in said[0][0] and other[0] == ("", "")
    assert "step 4/4" in (two / "logs" / "process-1.log").read_text()
    assert len(list(two.glob("events.out*"))) == 1


@pytest.mark.slow
def test_two_processes_end_together_when_one_is_told_to_and_go_on(distilled, environment, tmp_path):
    alone, two = tmp_path / "alone", tmp_path / "two"
    bound = {"AGENT": "'baseline'", "TRAIN_STEPS": 10, "EVAL_PERIOD": 5}
    together(1, 2, given(alone, distilled, **bound), environment)
    running = list(started(2, 1, given(two, distilled, **bound), environment))
    wait_for(two, 2, running)
    running[1].send_signal(signal.SIGTERM)
    found = ended(running)
    assert [status for _, status in found] == [processes.START_AGAIN] * 2
    assert re.search(
        r"interrupted by SIGTERM: saved at step \d+ in .*the same command on all processes", found[0][0][1]
    )
    # The first is told that it was the other one that ended it by what it saved alone; nothing else is printed.
    assert len(found[0][0][1].splitlines()) == 1
    assert (two / "logs" / "process-1.log").is_file()
    together(2, 1, given(two, distilled, **bound), environment)
    assert_alike(two, alone)


@pytest.mark.slow
@pytest.mark.parametrize("agent, contrast", [("cd_finetune", 0.0), ("cd_memory", 0.0), ("cd_memory", 0.5)])
@pytest.mark.parametrize("number, devices", [(2, 2), (4, 1)])
def test_agents_train_evaluate_and_infer_as_one_process_does(
    distilled, environment, tmp_path, agent, contrast, number, devices
):
    asked = {"TARGETS": "['babi_qa6']", "EVAL_PER_TASK": 12, "SOURCE_PER_TASK": 12}
    for folder, processes_, each in ((tmp_path / "alone", 1, 4), (tmp_path / "several", number, devices)):
        bound = {"AGENT": f"'{agent}'", "CONTRASTIVE_WEIGHT": contrast}
        together(processes_, each, given(folder, distilled, **bound), environment)
        together(processes_, each, runs.arguments("eval", folder, **asked), environment)
        together(processes_, each, runs.arguments("infer", folder, TASK="'babi_qa4'", infer__per_task=8), environment)
    assert_alike(tmp_path / "several", tmp_path / "alone")
    for path in (tmp_path / "alone" / "inference").iterdir():
        found = tmp_path / "several" / "inference" / path.name
        assert [json.loads(line)["generation"] for line in found.open()] == [
            json.loads(line)["generation"] for line in path.open()
        ]
    scores = [json.loads((tmp_path / name / "results.json").read_text())["runs"] for name in ("alone", "several")]
    assert [[score["accuracy"] for score in run["targets"]] for run in scores[0]] == [
        [score["accuracy"] for score in run["targets"]] for run in scores[1]
    ]


@pytest.mark.slow
def test_a_run_of_four_processes_goes_on_with_two_and_then_with_one(distilled, environment, tmp_path):
    alone, several = tmp_path / "alone", tmp_path / "several"
    bound = {"AGENT": "'cd_memory'", "CONTRASTIVE_WEIGHT": 0.5}
    together(1, 4, given(alone, distilled, **bound), environment)
    for number, devices, step in ((4, 1, 5), (2, 2, 12)):
        running = list(started(number, devices, given(several, distilled, **bound), environment))
        wait_for(several, step, running)
        for one in running:
            one.send_signal(signal.SIGTERM)
        assert [status for _, status in ended(running)] == [processes.START_AGAIN] * number
    together(1, 4, given(several, distilled, **bound), environment)
    assert_alike(several, alone)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_that_is_killed_takes_the_other_down_in_one_line(distilled, environment, tmp_path, victim):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    bound = {"AGENT": "'cd_memory'", "CONTRASTIVE_WEIGHT": 0.5}
    together(2, 2, given(undisturbed, distilled, **bound), environment)
    running = list(started(2, 2, given(killed, distilled, **bound), environment))
    wait_for(killed, 12, running)
    running[victim].kill()
    (_, error), status = ended(running, 60)[1 - victim]
    assert status == processes.START_AGAIN
    assert error.startswith("cd_jax: this process stops: another process has died") and error.count("\n") == 1
    together(2, 2, given(killed, distilled, **bound), environment)
    # On the same mesh bit for bit.
    assert_alike(killed, undisturbed, 0.0)
