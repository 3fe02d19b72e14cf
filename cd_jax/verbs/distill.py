"""`cd_jax distill`."""

import argparse
import shlex

from cd_jax import verbs


def _run(args, configuration) -> None:
    from cd_jax.learning import batches, distillation
    from cd_jax.rundir import hosts

    options = shlex.split(args.pipeline_options)
    batch = batches.Batch(args.import_batch, args.estimate, args.export_batch, args.pipeline, options)
    asked = batch if batch.is_asked_for else None
    hosts.first("distill", lambda: distillation.distill(args.model_dir, batch=asked))


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--estimate", action="store_true", help="say how many requests, tokens and how much money, at most; ask nothing"
    )
    parser.add_argument(
        "--export_batch", metavar="DIR", help="write the requests as OpenAI's batch files into DIR; ask nothing"
    )
    parser.add_argument(
        "--import_batch", metavar="FILE", nargs="+", default=[], help="take the answers of batches; ask nothing"
    )
    parser.add_argument(
        "--pipeline", metavar="DIR", help="make updates of the answers with Apache Beam, in shards; ask nothing"
    )
    parser.add_argument(
        "--pipeline_options", metavar="OPTIONS", default="", help="of Beam, e.g. '--runner=DirectRunner'"
    )


VERB = verbs.Verb(
    help="let a teacher explain the source task: updates.jsonl, vocabulary",
    place=3,
    run=_run,
    several=True,
    gin_file="runs/distill.gin",
    add_flags=_add_flags,
)
