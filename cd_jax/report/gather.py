"""The results of an experiment, gathered into a table, `results.json` and `report.html`."""

from etils import epath

from cd_jax.report import page, table
from cd_jax.rundir import files, lock, results


def report(model_dir: str) -> str:
    """Writes them.

    Args:
      model_dir: of an experiment (a folder of runs) or of one run.

    Returns:
      The table, and where to look.

    Raises:
      RequestError: there are no results, or they are malformed.
    """
    directory = epath.Path(model_dir)
    runs = results.run_dirs(directory)
    files.clean_up(directory)
    # Of a single run it is the file that `eval` adds to.
    with lock.in_turn(directory):
        merged = results.merge(directory)
        files.write_json(directory / "results.json", merged)
    written = page.write(directory)
    return (
        f"\n{table.render(merged)}\n\n"
        f"results:  {directory / 'results.json'}\n"
        f"report:   {written}\n"
        f"curves:   tensorboard --logdir {directory}\n"
        f"runs:     {', '.join(str(run) for run in runs)}"
    )
