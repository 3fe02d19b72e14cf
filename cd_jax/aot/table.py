"""What a compiled step needs, as text and as JSON lines."""

import dataclasses
import json
from collections.abc import Sequence

import tabulate

from cd_jax.aot.chips import GIB
from cd_jax.aot.measure import Measurement

ESTIMATE = """All figures are of one chip (v3, tpu7x: one core) and one step; decoding counts as if no row ended early.
Times and utilisation are estimates, from the compiled program and the chip's published peaks; nothing was run."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A step that was compiled, or was not.

    Attributes:
      what: `train_step` or `generate`.
      setting: topology, mesh, batch, …, as they go to the JSON line.
      measured: None where the step was not compiled, or does not fit.
      error: why it was not; empty where it was.
      peak_bytes: what it would need, where that is known.
    """

    what: str
    setting: dict[str, object]
    measured: Measurement | None
    error: str = ""
    peak_bytes: int | None = None

    @property
    def fits(self) -> bool:
        """Whether a device has the memory for it."""
        return self.measured is not None and self.measured.peak_bytes <= self.measured.hbm_capacity_bytes

    def json(self) -> str:
        """One line."""
        row: dict[str, object] = {"what": self.what, **self.setting, "fits": self.fits}
        if self.measured:
            row |= dataclasses.asdict(self.measured)
            row["collectives"] = {
                kind: {"count": count, "bytes": size} for kind, (count, size) in self.measured.collectives.items()
            }
        else:
            row |= {"error": self.error, "peak_bytes": self.peak_bytes}
        return json.dumps(row)


def details(rows: Sequence[Row]) -> str:
    """A column for each step."""
    kinds = sorted({kind for row in rows if row.measured for kind in row.measured.collectives})
    columns = [_column(row, kinds) for row in rows]
    lines = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return tabulate.tabulate(
        lines, ["", *(row.what.replace("_", " ") for row in rows)], "simple", disable_numparse=True
    )


def frontier(rows: Sequence[Row]) -> str:
    """A line for each setting of a sweep: those that fit first, of them the best utilisation first."""
    lines = [_line(row) for row in best_first(rows)]
    heads = ["mesh", "rules", "remat", "batch", "utilisation", "roofline"]
    heads += ["compute", "HBM", "exchange", "moved", "peak", "compiling"]
    return tabulate.tabulate(lines, heads, "simple", disable_numparse=True)


def summary(row: Row) -> str:
    """One setting of a sweep in a few words."""
    mesh, rules, remat, batch_size, utilisation, *_ = _line(row)
    return f"{mesh} {rules} {remat} batch {batch_size}: {utilisation}"


def best_first(rows: Sequence[Row]) -> list[Row]:
    """Those that fit by their utilisation, then the rest."""
    return sorted(rows, key=lambda row: (-row.fits, -(row.measured.utilisation_estimate if row.measured else 0)))


def gib(size: float | None) -> str:
    """A size in GiB."""
    return "?" if size is None else f"{size / GIB:.2f} GiB"


def _column(row: Row, kinds: list[str]) -> dict[str, str]:
    names = ["arguments", "temporaries", "peak, of HBM", "FLOPs", "bytes to and from HBM", "bytes accessed"]
    names += kinds
    names += ["compute time", "HBM time", "exchange time", "roofline time (estimate)", "FLOPs utilisation (estimate)"]
    names += ["lowering, compiling"]
    one = row.measured
    if not one:
        return dict.fromkeys(names, "-") | {"peak, of HBM": f"does not fit: {gib(row.peak_bytes)}"}
    values = [gib(one.argument_bytes), gib(one.temporary_bytes)]
    values += [f"{gib(one.peak_bytes)} of {gib(one.hbm_capacity_bytes)}", _scaled(one.flops)]
    values += [f"{_scaled(one.hbm_bytes)}B", f"{_scaled(one.bytes_accessed)}B"]
    values += [_exchange(*one.collectives.get(kind, (0, 0))) for kind in kinds]
    values += [_milliseconds(one.compute_seconds), _milliseconds(one.hbm_seconds)]
    values += [_milliseconds(one.collective_seconds), _milliseconds(one.roofline_seconds)]
    values += [f"{one.utilisation_estimate:.1%}", f"{one.lower_seconds:.1f} s, {one.compile_seconds:.1f} s"]
    return dict(zip(names, values, strict=True))


def _exchange(count: int, size: int) -> str:
    return f"{count:,} x, {_scaled(size)}B" if count else "-"


def _scaled(value: float) -> str:
    """Three digits and more, with a prefix of SI."""
    for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= scale:
            return f"{value / scale:.2f} {prefix}"
    return f"{value / 1e3:.2f} k"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms"


def _line(row: Row) -> list[str]:
    head = [str(row.setting[name]) for name in ("mesh", "rules", "remat_policy", "batch_size")]
    one = row.measured
    if not one:
        return [*head, row.error, *[""] * 5, gib(row.peak_bytes) if row.peak_bytes else "", ""]
    times = (one.roofline_seconds, one.compute_seconds, one.hbm_seconds, one.collective_seconds)
    utilisation = f"{one.utilisation_estimate:.1%}" if row.fits else "does not fit"
    moved, peak = f"{_scaled(one.hbm_bytes)}B", gib(one.peak_bytes)
    return [*head, utilisation, *map(_milliseconds, times), moved, peak, f"{one.compile_seconds:.0f} s"]
