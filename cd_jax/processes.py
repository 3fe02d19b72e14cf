"""How several processes of one command begin and end: found by JAX or given by flags, watched, and of one word.

JAX's coordination service aborts a process, with a stack trace, once another one has died. So the work goes on in a
child, and the parent, in which nothing heavy is ever imported, says in one line what became of it.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import platform
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cd_jax.errors import RequestError, RunError
from cd_jax.rundir import hosts, interrupt

# sysexits' EX_TEMPFAIL: nothing was wrong with the request; the same command on all processes goes on from there.
START_AGAIN = 75
# Seconds. A process that does not answer for so long is taken for dead by the others.
_HEARTBEAT = 30
_SAY_AFTER = 20
_FLAGS = {
    "coordinator_address": (str, "HOST:PORT", "of process 0, where several processes find one another; as in JAX"),
    "num_processes": (int, "N", "how many processes there are; found on Cloud TPU, GKE, SLURM and under MPI"),
    "process_id": (int, "I", "which of them this one is, from 0"),
    "cpu_devices_per_process": (int, "N", "CPU devices of this process, to try several devices or processes"),
    "initialization_timeout": (int, "SECONDS", "how long the processes wait for one another at the start (300)"),
}
# What launchers of several processes set, and how many there are by it.
_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "JAX_NUM_PROCESSES")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds those of several processes; each may be given as an environment variable, CD_JAX_NUM_PROCESSES for one."""
    for name, (kind, metavar, help) in _FLAGS.items():
        given = os.environ.get(_variable(name))
        parser.add_argument(f"--{name}", type=kind, metavar=metavar, help=help, default=given)


def _variable(flag: str) -> str:
    return f"CD_JAX_{flag.upper()}"


def are_announced(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> bool:
    """Whether there may be several: by a flag, by what launchers set, or as this is a TPU's host."""
    names = ("coordinator_address", "num_processes")
    if any(argument.partition("=")[0] == f"--{name}" for argument in arguments for name in names):
        return True
    if any(_variable(name) in environment for name in names):
        return True
    if any(environment.get(name, "1") not in ("", "0", "1") for name in _COUNTS):
        return True
    of_cluster = "JOB_COMPLETION_INDEX" in environment and "KUBERNETES_SERVICE_HOST" in environment
    on_tpu = any(os.path.exists(path) for path in ("/dev/accel0", "/dev/vfio/0"))
    return (of_cluster or on_tpu) and environment.get("JAX_PLATFORMS") != "cpu"


# What the parent sends its child in place of the signals that it gets. JAX's own handler of SIGTERM has no word for us.
_STANDS_FOR = {signal.SIGUSR1: signal.SIGTERM, signal.SIGUSR2: signal.SIGINT}


# The parent


def in_child() -> int | None:
    """Goes on in a child process.

    Returns:
      None in the child; in the parent, which waits for it, the exit status.
    """
    sys.stdout.flush()
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.close(theirs)
        # Of its own group: what the terminal sends goes to the parent, which passes it on once.
        os.setpgid(0, 0)
        for number in _STANDS_FOR:
            signal.signal(number, _pass_in)
        threading.Thread(target=_end_with, args=(ours,), daemon=True).start()
        return None
    os.close(ours)
    with _passing_on(child):
        while True:
            with contextlib.suppress(InterruptedError):
                _, ended = os.waitpid(child, 0)
                break
    return _told(ended)


def _end_with(pipe: int) -> None:
    """Ends this process when its parent has died."""
    os.read(pipe, 1)
    os._exit(128 + signal.SIGKILL)


@contextlib.contextmanager
def _passing_on(child: int) -> Iterator[None]:
    """Signals go to the child, see `_pass_in`; a second one ends it at once."""
    sent = {number: other for other, number in _STANDS_FOR.items()}
    asked = False

    def pass_on(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            os.kill(child, signal.SIGKILL)
            os._exit(128 + number)
        asked = True
        name = signal.Signals(number).name
        os.write(2, f"cd_jax: {name}: all processes end at the next safe place; once more ends this one\n".encode())
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, sent[signal.Signals(number)])

    before = {number: signal.signal(number, pass_on) for number in sent}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _told(ended: int) -> int:
    """The exit status, of a child of which nothing was said also in words."""
    if not os.WIFSIGNALED(ended):
        return os.waitstatus_to_exitcode(ended)
    number = os.WTERMSIG(ended)
    if number == signal.SIGABRT:
        why = "another process has died, or cannot be reached"
    else:
        why = f"it was ended by {signal.Signals(number).name}"
    _say(f"this process stops: {why}; the same command on all processes goes on from the last checkpoint")
    return START_AGAIN


# The child


def _pass_in(number: int, frame: object) -> None:
    """What the parent was sent is for all processes: JAX tells them, once its handler gets a SIGTERM."""
    interrupt.ask(_STANDS_FOR[signal.Signals(number)])
    if hosts.count() > 1:
        os.kill(os.getpid(), signal.SIGTERM)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the flags say.

    Attributes:
      coordinator_address: of process 0; None: JAX finds it.
      num_processes: how many there are; None: JAX finds it.
      process_id: of this one; None: JAX finds it.
      cpu_devices_per_process: None: what there is.
      initialization_timeout: seconds.
    """

    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    cpu_devices_per_process: int | None = None
    initialization_timeout: int = 300

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Asked":
        """Of the command line. Raises RequestError where flags do not go together."""
        asked = cls(**{name: value for name in _FLAGS if (value := getattr(args, name, None)) is not None})
        number, this = asked.num_processes, asked.process_id
        if (number is None) != (this is None):
            raise RequestError("--num_processes and --process_id go together; give both, or neither")
        if number is not None and this is not None and not 0 <= this < number:
            raise RequestError(f"--process_id={this} is none of {number} processes; give 0 to {number - 1}")
        if number is not None and number > 1 and not asked.coordinator_address:
            raise RequestError("--coordinator_address lacks; give HOST:PORT of process 0, the same to all")
        if asked.cpu_devices_per_process is not None and asked.cpu_devices_per_process < 1:
            raise RequestError(f"--cpu_devices_per_process={asked.cpu_devices_per_process}: give 1 or more")
        return asked


def join(asked: Asked, announced: bool, model_dir: str | None) -> None:
    """Meets the other processes, if there are any, before anything looks for devices.

    Args:
      asked: by flags.
      announced: `are_announced`.
      model_dir: of the run, for the processes' logs.

    Raises:
      RunError: they do not come.
    """
    if not announced and not asked.cpu_devices_per_process:
        return
    import jax

    if asked.cpu_devices_per_process:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", asked.cpu_devices_per_process)
    if not announced or asked.num_processes == 1:
        return
    if not _initialize(asked):
        return
    from orbax.checkpoint import multihost

    index, count = jax.process_index(), jax.process_count()
    hosts.join(index, count, multihost.get_jax_distributed_client(), _end)
    if count > 1:
        if interrupt.was_asked():
            os.kill(os.getpid(), signal.SIGTERM)
        _redirect(hosts.log_file(model_dir))
        hosts.meet("the start")


def _initialize(asked: Asked) -> bool:
    """Whether there are several: those of the flags, or whom JAX finds."""
    import jax

    with _waiting(asked):
        try:
            jax.distributed.initialize(
                asked.coordinator_address,
                asked.num_processes,
                asked.process_id,
                # Later than we do: where JAX gives up it aborts, with a stack trace.
                initialization_timeout=asked.initialization_timeout + 60,
                heartbeat_timeout_seconds=_HEARTBEAT,
                shutdown_timeout_seconds=_HEARTBEAT,
            )
        except ValueError as error:
            if "should be defined" in str(error) or "must be defined" in str(error):
                return False  # JAX knows of no others.
            raise
    return True


@contextlib.contextmanager
def _waiting(asked: Asked) -> Iterator[None]:
    """Says that the others are waited for, and after a while gives up, which ends this process."""
    this = "this process" if asked.process_id is None else f"process {asked.process_id} of {asked.num_processes}"
    where = f" at {asked.coordinator_address}" if asked.coordinator_address else ""

    def say() -> None:
        _say(f"{this} waits for the others{where}; is the same command started on every host?")

    def give_up() -> None:
        seconds = asked.initialization_timeout
        _say(f"{this} has waited {seconds} s for the others{where}; start the same command on every host")
        os._exit(1)

    timers = [threading.Timer(_SAY_AFTER, say), threading.Timer(asked.initialization_timeout, give_up)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def _say(text: str) -> None:
    print(f"cd_jax: {text}", file=sys.stderr, flush=True)


def _redirect(path: str) -> None:
    """What libraries print by themselves goes to a log, and of other processes than the first, all that is printed."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    if hosts.is_first():
        sys.stdout = os.fdopen(os.dup(1), "w", errors="backslashreplace")
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def command(arguments: Sequence[str]) -> dict[str, Any]:
    """What all processes must have alike, by name: versions, code, arguments, bindings of gin."""
    import gin
    import jax

    from cd_jax.config import statements

    here = pathlib.Path(__file__).parent
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(here.rglob("*.py")))).hexdigest()[:16]
    own = tuple(f"--{name}" for name in _FLAGS)
    found: dict[str, Any] = {"Python": platform.python_version(), "JAX": jax.__version__, "the code's digest": code}
    found["the arguments"] = [argument for argument in _joined(arguments) if argument.partition("=")[0] not in own]
    return found | {name: str(value) for name, value in statements.bindings(gin.config_str()).items()}


def _joined(arguments: Sequence[str]) -> list[str]:
    """`--flag value` as `--flag=value`."""
    joined: list[str] = []
    for argument in arguments:
        last = joined[-1] if joined else ""
        if last.startswith("--") and "=" not in last and not argument.startswith("-"):
            joined[-1] = f"{last}={argument}"
        else:
            joined.append(argument)
    return joined


def _end(text: str, status: int) -> None:
    """Ends this process at once, wherever it is: it may wait for one that is not there any more."""
    if hosts.is_first():
        _say(text)
    os._exit(status)


def end(text: str, status: int) -> None:
    """Of several processes, ends this one at once; the others, too, which may wait for it anywhere.

    Args:
      text: why.
      status: of the process; `START_AGAIN` where all have agreed to end.
    """
    if hosts.count() == 1:
        return
    if status == START_AGAIN:
        with contextlib.suppress(RunError):
            hosts.leave()
    else:
        hosts.fail(text, status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
