"""Metrics of a run: `metrics.jsonl` and TensorBoard events, through clu's writers."""

import sys
from collections.abc import Mapping

import numpy as np
from clu import metric_writers
from etils import epath

from cd_jax.errors import RunError
from cd_jax.rundir import files, hosts, journal, results


def open_writer(model_dir: files.Path, resume_step: int) -> metric_writers.MetricWriter:
    """Opens both; what a killed run wrote after the checkpoint from which it goes on is taken out of `metrics.jsonl`.

    TensorBoard does the same by itself when it meets steps that come again.
    """
    if not hosts.is_first():
        return metric_writers.MultiWriter([])
    path = epath.Path(model_dir) / results.METRICS
    _keep_until(path, resume_step)
    return metric_writers.MultiWriter([JsonLinesWriter(path), metric_writers.SummaryWriter(str(path.parent))])


def _keep_until(path: epath.Path, step: int) -> None:
    if not path.exists():
        return
    journal.repair(path)
    found = journal.read_tolerantly(path)
    whole = [line for line in found.records if type(line.get("step")) is int]
    if damaged := found.skipped + len(found.records) - len(whole):
        print(f"cd_jax: {path}: {damaged} damaged line(s) are left out", file=sys.stderr, flush=True)
    journal.write(path, (line for line in whole if line["step"] <= step))


class JsonLinesWriter(metric_writers.MetricWriter):
    """Appends `{"step": …, name: value, …}` for every call, on disk at once, so that a kill loses nothing written."""

    def __init__(self, path: files.Path):
        self._path = path

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one line."""
        journal.append(self._path, [{"step": step} | {k: float(np.asarray(v)) for k, v in scalars.items()}])

    def flush(self) -> None:
        """Everything is on disk already."""

    def close(self) -> None:
        """Nothing is open."""

    def _unsupported(self, *args, **kwargs) -> None:
        raise RunError("metrics.jsonl holds scalars only")

    write_summaries = write_images = write_videos = write_audios = write_texts = _unsupported
    write_histograms = write_pointcloud = write_hparams = _unsupported
