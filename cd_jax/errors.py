"""The errors that a user can mend, as opposed to defects of the program."""


class RequestError(Exception):
    """The request was wrong: a flag, a gin binding, a data file or a checkpoint.

    The message is one line that names the file, line or binding and the mend. The command line prints it
    as `cd_jax: …` and exits with status 2.
    """


class RunError(Exception):
    """The request was right but the run failed (a full disk, a loss of NaN, a teacher that cannot be reached).

    The message is one line; the command line prints it as `cd_jax: …` and exits with status 1.
    """
