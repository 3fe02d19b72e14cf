"""`cd_jax aot`."""

from cd_jax import verbs


def _add_flags(parser) -> None:
    parser.add_argument("--topology", default="v5e:4x4", help="a slice of a pod, such as v5e:8x8 or tpu7x:4x4x4")
    parser.add_argument("--mesh", help="devices along the axes, DATAxMODEL; all along data where it is not given")
    parser.add_argument("--sweep", action="store_true", help="try meshes, batches, remat and rules; the best first")
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")


def _prepare() -> None:
    from cd_jax.aot import devices

    devices.prepare_environment()


def _run(args, configuration) -> None:
    from cd_jax.aot import compile, sweep

    (sweep.aot_sweep if args.sweep else compile.aot)(args.topology, args.mesh, args.json)


VERB = verbs.Verb(
    help="compile a step for a TPU pod that is not there: memory, time",
    place=10,
    run=_run,
    gin_file="runs/aot.gin",
    needs_model_dir=False,
    add_flags=_add_flags,
    prepare=_prepare,
)
