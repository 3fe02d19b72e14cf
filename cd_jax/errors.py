"""The errors that a user can mend, as opposed to defects of the program."""

import signal


class RequestError(Exception):
    """The request was wrong: a flag, a gin binding, a data file or a checkpoint.

    The message is one line that names the file, line or binding and the mend. The command line prints it
    as `cd_jax: …` and exits with status 2.
    """


class RunError(Exception):
    """The request was right but the run failed (a full disk, a loss of NaN, a teacher that cannot be reached).

    The message is one line; the command line prints it as `cd_jax: …` and exits with status 1.
    """


class Interrupted(KeyboardInterrupt):
    """The user, or the system, asks us to end; raised by `rundir.interrupt.check`.

    Attributes:
      status: of the process: 130 after SIGINT, 143 after SIGTERM, as shells have it.
      kept: what is said of the work done: where it was saved, or that there was nothing to save.
    """

    def __init__(self, asked: signal.Signals, kept: str = ""):
        super().__init__(asked.name)
        self.asked, self.status, self.kept = asked, 128 + asked, kept
