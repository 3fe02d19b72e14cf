"""The train step of cd_jax and of T5X, compiled for a TPU pod on this machine: one JSON line each, and their ratios.

    python benchmarks/aot.py --topology=v5e:4x4 --model=large --batch_size=64 --mesh=16x1 --t5x_mesh=4x4

`impl` is `cd_jax`, `t5x` (T5X's `t5x.examples.t5.network`, unrolled, as its gin files configure it) or `scalable_t5`
(T5X's scanned network with its gin files' remat). T5X's rows come from its own network, model, Adafactor, train step
and `standard_logical_axis_rules`, at the same topology, batch and lengths; `--t5x_mesh` is repeatable, and the best
roofline time among them is what the ratios compare with. Where T5X is not installed its rows are left out. Nothing is
run: it needs `pip install 'cd_jax[tpu]'` and no TPU. T5X's unrolled large takes minutes to compile.
"""

import argparse
import dataclasses
import importlib.util
import json
import sys

from cd_jax.aot.devices import devices, prepare_environment

prepare_environment()

from cd_jax.aot import measure, roofline, sharding  # noqa: E402  JAX reads the environment when it is imported.
from cd_jax.aot.chips import Topology, topology  # noqa: E402
from cd_jax.nets.config import T5Config  # noqa: E402

# Of T5 1.1 (t5x/examples/t5/t5_1_1/*.gin): emb_dim, num_heads, head_dim, mlp_dim, layers of each side.
MODELS = {
    "small": (512, 6, 64, 1024, 8),
    "base": (768, 12, 64, 2048, 12),
    "large": (1024, 16, 64, 2816, 24),
    "xl": (2048, 32, 64, 5120, 24),
    "xxl": (4096, 64, 64, 10240, 24),
}
VOCAB_SIZE = 32128
Z_LOSS = 1e-4
# Configuration of T5X's `base.gin` beside its gin files for sizes.
_T5X_EXTRA = {"t5x": {}, "scalable_t5": {"scan_layers": True, "remat_policy": "minimal"}}


def _sizes(model: str) -> dict:
    emb_dim, num_heads, head_dim, mlp_dim, layers = MODELS[model]
    return {
        "vocab_size": VOCAB_SIZE,
        "emb_dim": emb_dim,
        "num_heads": num_heads,
        "head_dim": head_dim,
        "mlp_dim": mlp_dim,
        "num_encoder_layers": layers,
        "num_decoder_layers": layers,
        "mlp_activations": ("gelu", "linear"),
        "dropout_rate": 0.0,
        "dtype": "bfloat16",
    }


def lower_t5x(impl: str, model: str, mesh_shape: tuple[int, int], chips: list, shape: roofline.Shape, dims: int):
    """T5X's train step (`t5x.trainer.train_with_lr`), lowered.

    Args:
      impl: `t5x` or `scalable_t5`.
      model: a key of MODELS.
      mesh_shape: devices along data and model.
      chips: devices of the topology.
      shape: of the batch; one passage.
      dims: `parameter_partitioning_dims` of T5X's rules: 2 shards parameters over data as well.
    """
    import jax
    import numpy as np
    import seqio
    from absl import logging
    from flax import traverse_util
    from flax.linen import partitioning as flax_partitioning
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from t5x import adafactor, models, partitioning, train_state, trainer

    logging.set_verbosity(logging.ERROR)
    network = importlib.import_module(
        "t5x.examples.t5.network" if impl == "t5x" else "t5x.examples.scalable_t5.network"
    )
    config = network.T5Config(**_sizes(model), **_T5X_EXTRA[impl])
    vocabulary = seqio.PassThroughVocabulary(size=VOCAB_SIZE, eos_id=1)
    optimizer = adafactor.Adafactor(
        decay_rate=0.8, step_offset=0, logical_factor_rules=adafactor.standard_logical_factor_rules()
    )
    wrapped = models.EncoderDecoderModel(
        module=network.Transformer(config=config),
        input_vocabulary=vocabulary,
        output_vocabulary=vocabulary,
        optimizer_def=optimizer,
        z_loss=Z_LOSS,
    )
    lengths = {"encoder_input_tokens": shape.input_length} | {
        f"decoder_{name}": shape.target_length for name in ("input_tokens", "target_tokens", "loss_weights")
    }
    shapes = {name: (shape.batch_size, length) for name, length in lengths.items()}
    rules = partitioning.standard_logical_axis_rules(parameter_partitioning_dims=dims)
    mesh = Mesh(np.array(chips).reshape(mesh_shape), ("data", "model"))

    def initial():
        types = dict.fromkeys(shapes, np.int32)
        return train_state.FlaxOptimTrainState.create(
            optimizer, wrapped.get_initial_variables(jax.random.PRNGKey(0), shapes, types)
        )

    state = jax.eval_shape(initial)
    names = traverse_util.flatten_dict(state.as_logical_axes().state_dict(), sep="/")

    def placed(value, names):
        spec = flax_partitioning.logical_to_mesh_axes(names, rules) if names is not None else PartitionSpec()
        return jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=NamedSharding(mesh, spec))

    values = traverse_util.flatten_dict(state.state_dict(), sep="/")
    state = state.restore_state(
        traverse_util.unflatten_dict({name: placed(value, names.get(name)) for name, value in values.items()}, sep="/")
    )
    along_data = NamedSharding(mesh, PartitionSpec("data"))
    batch = {
        name: jax.ShapeDtypeStruct(size, np.float32 if "weights" in name else np.int32, sharding=along_data)
        for name, size in shapes.items()
    }

    def step(state, batch):
        with flax_partitioning.axis_rules(rules):
            return trainer.train_with_lr(state, batch, 1e-3, jax.random.PRNGKey(0), wrapped, num_microbatches=None)

    with mesh:
        return jax.jit(step, donate_argnums=0).lower(state, batch)


def lower_cd_jax(args, chips: list, shape: roofline.Shape):
    """The train step of cd_jax, lowered."""
    import optax

    from cd_jax.solver.partitioning import Partitioner
    from cd_jax.solver.solver import Solver

    data, model = _mesh(args.mesh)
    solver = Solver(
        T5Config(**_sizes(args.model), remat_policy=args.remat_policy, logits_chunk=args.logits_chunk),
        VOCAB_SIZE,
        optax.constant_schedule(1e-3),
        partitioner=Partitioner(data, model, sharding.rules(args.rules), chips),
        z_loss=Z_LOSS,
    )
    return solver.lower_train_step(shape.batch_size, shape.passages, shape.input_length, shape.target_length)


def _mesh(text: str) -> tuple[int, int]:
    data, _, model = text.partition("x")
    return int(data), int(model)


def _row(args, impl: str, mesh: str, lower, slice_: Topology, shape: roofline.Shape, **more) -> dict:
    head = {"what": "train_step", "impl": impl, "topology": args.topology, "model": args.model, "mesh": mesh, **more}
    head |= dataclasses.asdict(shape)
    try:
        measured, counted = measure.measure(lower, slice_, roofline.train_flops(T5Config(**_sizes(args.model)), shape))
    except measure.DoesNotFit as error:
        return head | {"fits": False, "error": str(error), "peak_bytes": error.peak_bytes}
    if args.largest:
        for kernel in counted.largest(args.largest):
            print(kernel.times, kernel.hbm_bytes, kernel.opcode, kernel.name, kernel.op_name, file=sys.stderr)
    return head | {"fits": True} | dataclasses.asdict(measured)


def _ratios(ours: dict, theirs: dict) -> dict:
    fields = (
        "roofline_seconds",
        "hbm_bytes",
        "bytes_accessed",
        "peak_bytes",
        "compile_seconds",
        "utilisation_estimate",
    )
    return {
        "what": "ratio",
        "of": f"cd_jax {ours['mesh']} to {theirs['impl']} {theirs['mesh']}",
        **{field: round(ours[field] / theirs[field], 4) for field in fields},
    }


def main() -> None:
    """Compiles and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--model", default="large", choices=MODELS)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--input_length", type=int, default=512)
    parser.add_argument("--target_length", type=int, default=128)
    parser.add_argument("--mesh", default="16x1", help="cd_jax's, DATAxMODEL; empty: leave cd_jax out")
    parser.add_argument("--rules", default="fsdp", help="cd_jax's: data, fsdp, model, fsdp_model")
    parser.add_argument("--remat_policy", default="none", help="cd_jax's")
    parser.add_argument("--logits_chunk", type=int, default=0, help="cd_jax's")
    parser.add_argument("--t5x_mesh", action="append", default=[], help="T5X's, repeatable")
    parser.add_argument("--t5x_impl", action="append", default=[], choices=tuple(_T5X_EXTRA), help="repeatable")
    parser.add_argument("--t5x_dims", type=int, default=1, choices=(1, 2), help="parameter_partitioning_dims")
    parser.add_argument("--largest", type=int, default=0, help="print so many kernels that move most bytes, on stderr")
    args = parser.parse_args()
    slice_ = topology(args.topology)
    chips = devices(slice_)
    shape = roofline.Shape(args.batch_size, 1, args.input_length, args.target_length)
    rows = []
    if args.mesh:
        more = {"rules": args.rules, "remat_policy": args.remat_policy}
        rows.append(_row(args, "cd_jax", args.mesh, lambda: lower_cd_jax(args, chips, shape), slice_, shape, **more))
        print(json.dumps(rows[0]), flush=True)
    if not importlib.util.find_spec("t5x"):
        print("T5X is not installed; its rows are left out", file=sys.stderr)
        return
    for impl in args.t5x_impl or ["t5x"] * bool(args.t5x_mesh):
        for mesh in args.t5x_mesh:

            def lower(impl=impl, mesh=mesh):
                return lower_t5x(impl, args.model, _mesh(mesh), chips, shape, args.t5x_dims)

            rows.append(_row(args, impl, mesh, lower, slice_, shape, parameter_partitioning_dims=args.t5x_dims))
            print(json.dumps(rows[-1]), flush=True)
    peers = [row for row in rows if row["impl"] != "cd_jax" and row["fits"]]
    if peers and args.mesh and rows[0]["fits"]:
        print(json.dumps(_ratios(rows[0], min(peers, key=lambda row: row["roofline_seconds"]))), flush=True)


if __name__ == "__main__":
    main()
