"""Starts `cd_jax` as a user would, on the smallest run that has all its parts: 5 examples, 3 steps an epoch."""

import pathlib
import subprocess
import sys

from cd_jax import cli

SOURCE = "babi_qa1_low_data"
# An evaluation and a checkpoint at 4, 8, 12 and 16; of these only 12 is at the end of an epoch.
STEPS = 16
BINDINGS = {
    "SOURCE": f"'{SOURCE}'",
    "BATCH_SIZE": 2,
    "TRAIN_STEPS": STEPS,
    "EVAL_PERIOD": 4,
    "PATIENCE": 99,
    "INPUT_LENGTH": 32,
    "TARGET_LENGTH": 24,
    "WARMUP_STEPS": 2,
    "train.log_period": 2,
    "train.eval_per_task": 4,
    "T5Config.emb_dim": 32,
    "T5Config.num_encoder_layers": 1,
    "T5Config.num_decoder_layers": 1,
}
# Of a model that is imported.
LENGTHS = {"INPUT_LENGTH": 32, "TARGET_LENGTH": 24, "SelfLearningProcess.eval_batch_size": 8}

# Runs the command line with something that happens once a line of metrics is written.
_WITH_HOOK = """
import errno, os, shutil, signal, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # As cd_jax does, before anything is imported.
from etils import epath
from cd_jax import cli
from cd_jax.rundir import metrics
step, what, directory = int(sys.argv[1]), sys.argv[2], epath.Path(sys.argv[3])
write, sent = metrics.JsonLinesWriter.write_scalars, []
def hooked(self, at, scalars):
    write(self, at, scalars)
    if at == step and what == "kill":
        saved = directory / "checkpoints" / str(at // 4 * 4)
        while at > 4 and not saved.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    if at == step and what in ("SIGINT", "SIGTERM") and not sent:
        sent.append(step)  # An evaluation writes a second line of the same step, and a second signal ends at once.
        os.kill(os.getpid(), getattr(signal, what))
    if at == step and what == "gone":
        shutil.rmtree(directory)
    if at == step and what == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory / "metrics.jsonl"))
metrics.JsonLinesWriter.write_scalars = hooked
sys.exit(cli.main(sys.argv[4:]))
"""


def arguments(verb: str, model_dir: pathlib.Path, *flags: str, **bindings) -> list[str]:
    """The command line of a verb; bindings by name, with `__` for a dot."""
    given = {name.replace("__", "."): value for name, value in bindings.items()}
    return [verb, f"--model_dir={model_dir}", *flags, *(f"--gin.{name}={value}" for name, value in given.items())]


def train_arguments(model_dir: pathlib.Path, distilled: pathlib.Path, *flags: str, **bindings) -> list[str]:
    """Of the smallest run; `bindings` on top."""
    given = BINDINGS | {"AGENT": "'cd_memory'", "train.distilled": f"'{distilled}'"}
    given |= {name.replace("__", "."): value for name, value in bindings.items()}
    return arguments("train", model_dir, *flags, **{name.replace(".", "__"): value for name, value in given.items()})


def command(given: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`python -m cd_jax …` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "cd_jax", *given], env=environment, capture_output=True, text=True, timeout=300
    )


def command_until(
    step: int, what: str, model_dir: pathlib.Path, given: list[str], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """The same, and at the metrics of a step a `kill` -9 (once the checkpoint before it is there), a `SIGINT` or
    `SIGTERM`, a `full` disk, or the folder `gone`."""
    program = [sys.executable, "-c", _WITH_HOOK, str(step), what, str(model_dir), *given]
    return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300)


def here(given: list[str]) -> int:
    """The command line in this process, on its eight devices: the exit status."""
    import gin

    gin.clear_config()
    try:
        return cli.main(given)
    finally:
        gin.clear_config()


def snapshot(directory: pathlib.Path) -> dict[str, tuple[int, bytes]]:
    """Every file and folder, with its time of change and content."""
    return {
        str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(directory.rglob("*"))
    }
