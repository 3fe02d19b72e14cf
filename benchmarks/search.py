"""Times the memory's nearest-neighbour back ends beside ScaNN's own choice and faiss's flat index; prints JSON lines.

  python benchmarks/search.py [--sizes=1000,10000] [--keys=clustered|gaussian] [--backends exact approx scann …]
  python benchmarks/search.py --topology=v5e:4x4 [--size=10000000] [--embed=1024]   # compiled, not run

The first prints, for keys of 512 dimensions, `backend`, `size` (keys), `recall` (share that it finds of the 10 that
are nearest in double precision), `queries_per_s` of batches of 1,000 (the median of several), `queries_per_cpu_s` (a
second of one core, whatever else the machine does), `build_s`, `slope` (of the logarithm of the time a query against
that of the size, over the sizes so far: 1 is linear) and `to_faiss` (queries per second over those of faiss's flat
index). Each back end has a process of its own, one after the other, the same keys and all cores. faiss need not be
installed (`pip install faiss-cpu`): its rows are left out then.

Keys are clustered as embeddings of texts are: about as many clusters as the square root of their number, whose sizes
fall as in Zipf's law, and variances that fall along the axes; those within a cluster are half of those of the centres.
Queries are new points of the same clusters. `--keys=gaussian` has neither clusters nor leading axes, the worst case for
any index but a flat one.

The second prints bytes a chip, collectives and times, estimated for batches of 1,000, of keys whose rows lie over a
slice of TPUs: `cd_jax.aot.measure`'s figures, and `estimate_s`, which counts the six passes that a product of float32
takes through the matrix units.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

NEIGHBOURS = 10
METRIC = "squared_euclidean"
CORES = os.cpu_count() or 1


def clustered(size: int, queries: int, embed: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys and queries as embeddings are; see above."""
    random = np.random.default_rng(0)
    clusters = max(10, round(size**0.5))
    deviations = (1.0 + np.arange(embed) / 8.0).astype(np.float32) ** -0.5
    centres = random.standard_normal((clusters, embed), np.float32) * deviations
    shares = 1.0 / np.arange(1, clusters + 1)
    rotation = np.linalg.qr(random.standard_normal((embed, embed), np.float32))[0]
    within = random.standard_normal((size + queries, embed), np.float32)
    within *= 0.7 * deviations
    within += centres[random.choice(clusters, len(within), p=shares / shares.sum())]
    points = within @ rotation
    return points[:size], points[size:]


def gaussian(size: int, queries: int, embed: int) -> tuple[np.ndarray, np.ndarray]:
    points = np.random.default_rng(0).standard_normal((size + queries, embed), np.float32)
    return points[:size], points[size:]


KEYS = {"clustered": clustered, "gaussian": gaussian}


def true_neighbours(keys: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Rows `[queries, 10]` of the nearest keys, in double precision, in no order."""
    queries = queries.astype(np.float64)
    best, rows = np.full((len(queries), 0), 0.0), np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(keys), 32_768):
        chunk = keys[start : start + 32_768].astype(np.float64)
        distances = np.concatenate([best, (chunk**2).sum(-1) - 2.0 * queries @ chunk.T], 1)
        numbers = np.concatenate([rows, np.tile(np.arange(start, start + len(chunk)), (len(queries), 1))], 1)
        nearest = np.argpartition(distances, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
        best, rows = np.take_along_axis(distances, nearest, 1), np.take_along_axis(numbers, nearest, 1)
    return rows


# A back end is made of keys, and gives a search: queries to rows [queries, 10].
Search = Callable[[np.ndarray], np.ndarray]


def exact(keys: np.ndarray) -> Search:
    from cd_jax.memory.index.device import DeviceIndex

    index = DeviceIndex(keys, metric=METRIC)
    return lambda queries: index.search(queries, NEIGHBOURS)[0]


def approx(keys: np.ndarray) -> Search:
    from cd_jax.memory.index.device import DeviceIndex

    index = DeviceIndex(keys, metric=METRIC, recall_target=0.95)
    return lambda queries: index.search(queries, NEIGHBOURS)[0]


def scann(keys: np.ndarray) -> Search:
    from cd_jax.memory.index.device import ScannIndex

    index = ScannIndex(keys, metric=METRIC, recall_target=0.95)
    return lambda queries: index.search(queries, NEIGHBOURS)[0]


def scann_autopilot(keys: np.ndarray) -> Search:
    """ScaNN as it sets itself up, without us."""
    from scann.scann_ops.py import scann_ops_pybind

    builder = scann_ops_pybind.builder(keys, NEIGHBOURS, "squared_l2").set_n_training_threads(CORES)
    searcher = builder.autopilot().build()
    return lambda queries: searcher.search_batched_parallel(queries)[0]


def faiss_flat(keys: np.ndarray) -> Search:
    import faiss

    faiss.omp_set_num_threads(CORES)
    index = faiss.IndexFlatL2(keys.shape[1])
    index.add(keys)
    return lambda queries: index.search(queries, NEIGHBOURS)[1]


BACK_ENDS = {
    "faiss_flat": faiss_flat,
    "exact": exact,
    "approx": approx,
    "scann": scann,
    "scann_autopilot": scann_autopilot,
}


def measure_one(name: str, folder: pathlib.Path, repeat: int) -> None:
    """In a process of its own: prints a line."""
    keys, queries, truth = (np.load(folder / f"{what}.npy") for what in ("keys", "queries", "truth"))
    start = time.perf_counter()
    search = BACK_ENDS[name](keys)
    found = search(queries)
    build = time.perf_counter() - start
    seconds = []
    cpu_seconds = []
    for _ in range(repeat):
        start, cpu_start = time.perf_counter(), time.process_time()
        search(queries)
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    hits = (np.asarray(found)[:, :, None] == truth[:, None]).any(-1)
    line = {"backend": name, "size": len(keys), "recall": round(float(hits.mean()), 4)}
    line["queries_per_s"] = round(len(queries) / statistics.median(seconds), 1)
    line["queries_per_cpu_s"] = round(len(queries) / statistics.median(cpu_seconds), 1)
    print(json.dumps(line | {"build_s": round(build, 1)}))


def compare(arguments: argparse.Namespace) -> None:
    """Every size and back end; a line for each."""
    names = arguments.backends
    if "faiss_flat" in names and not importlib.util.find_spec("faiss"):
        print("faiss is not installed; its rows are left out", file=sys.stderr)
        names = [name for name in names if name != "faiss_flat"]
    speeds: dict[str, list[tuple[int, float]]] = {name: [] for name in names}
    failed: list[str] = []
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            keys, queries = KEYS[arguments.keys](size, arguments.queries, arguments.embed)
            truth = true_neighbours(keys, queries)
            for what, array in (("keys", keys), ("queries", queries), ("truth", truth)):
                np.save(pathlib.Path(folder) / f"{what}.npy", array)
            del keys
            for name in names:
                line = run_one(name, folder, arguments.repeat)
                if not line:
                    failed.append(f"{name} at {size}")
                    continue
                speeds[name].append((size, line["queries_per_s"]))
                line["slope"] = slope(speeds[name])
                line["to_faiss"], flat = None, speeds.get("faiss_flat")
                if flat and flat[-1][0] == size:
                    line["to_faiss"] = round(line["queries_per_s"] / flat[-1][1], 2)
                print(json.dumps(line | {"keys": arguments.keys}), flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def run_one(name: str, folder: str, repeat: int) -> dict | None:
    """The line of one back end; None, and its errors on stderr, where it failed."""
    command = [sys.executable, __file__, "--one", name, "--folder", folder, "--repeat", str(repeat)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr, f"{name}: exit status {done.returncode}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def slope(speeds: list[tuple[int, float]]) -> float | None:
    """Least squares on logarithms of seconds a query against keys; None for one size."""
    if len(speeds) < 2:
        return None
    sizes, queries_per_s = np.log(np.array(speeds)).T
    return round(float(np.polyfit(sizes, -queries_per_s, 1)[0]), 3)


def compile_for(arguments: argparse.Namespace) -> None:
    """What the search among sharded keys needs on a slice of TPUs; a line for each type of keys and back end."""
    from cd_jax.aot.chips import topology
    from cd_jax.aot.devices import devices
    from cd_jax.aot.measure import DoesNotFit, measure

    slice_ = topology(arguments.topology)
    chips = devices(slice_)
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from cd_jax.memory.index import nearest, sharded

    mesh = Mesh(np.array(chips), ("data",))
    unit = nearest.BLOCK * len(chips)
    rows = -(-arguments.size // unit) * unit
    along, everywhere = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    queries = jax.ShapeDtypeStruct((arguments.queries, arguments.embed), jnp.float32, sharding=everywhere)
    shape = jax.ShapeDtypeStruct((rows, arguments.embed), jnp.float32)
    for dtype in (jnp.bfloat16, jnp.float32):
        unplaced = jax.eval_shape(partial(nearest.build, capacity=rows, metric=METRIC, dtype=dtype), shape)
        keys = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=along), unplaced)
        for name, recall_target in (("exact", 1.0), ("approx", 0.95)):

            def lower(keys=keys, recall_target=recall_target):
                def search(keys, queries):
                    return sharded.nearest(keys, queries, NEIGHBOURS, METRIC, mesh, "data", recall_target)

                return jax.jit(search).lower(keys, queries)

            line = {"backend": name, "topology": slice_.name, "size": rows, "embed": arguments.embed}
            line |= {"queries": arguments.queries, "dtype": np.dtype(dtype).name}
            try:
                measured, counted = measure(lower, slice_, 2.0 * rows * arguments.embed * arguments.queries)
            except DoesNotFit as error:
                print(json.dumps(line | {"fits": False, "peak_bytes": error.peak_bytes}), flush=True)
                continue
            for kernel in counted.largest(arguments.largest):
                print(kernel.times, kernel.hbm_bytes, kernel.opcode, kernel.name, kernel.op_name, file=sys.stderr)
            passes = 6 if dtype == jnp.float32 else 1
            line["estimate_s"] = max(measured.roofline_seconds, passes * measured.compute_seconds)
            print(json.dumps(line | {"fits": True} | dataclasses.asdict(measured)), flush=True)


def main() -> None:
    """Measures, or compiles, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=lambda text: [int(size) for size in text.split(",")], default=[1000, 10_000])
    parser.add_argument("--keys", choices=KEYS, default="clustered")
    parser.add_argument("--backends", nargs="+", choices=BACK_ENDS, default=list(BACK_ENDS))
    parser.add_argument("--queries", type=int, default=1000, help="of a batch")
    parser.add_argument("--embed", type=int, help="dimensions of a key: 512, or 1,024 with --topology")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--topology", help="compile for a slice of TPUs, such as v5e:4x4")
    parser.add_argument("--size", type=int, default=10_000_000, help="keys, with --topology")
    parser.add_argument("--largest", type=int, default=0, help="with --topology: print so many kernels on stderr")
    parser.add_argument("--one", choices=BACK_ENDS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.embed = arguments.embed or (1024 if arguments.topology else 512)
    if arguments.one:
        measure_one(arguments.one, arguments.folder, arguments.repeat)
    elif arguments.topology:
        compile_for(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
