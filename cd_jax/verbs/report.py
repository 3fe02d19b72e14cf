"""`cd_jax report`."""

from cd_jax import verbs
from cd_jax.errors import RequestError


def _refuse_gin(args, given) -> list[str]:
    if given or args.gin_file or args.module_import:
        raise RequestError("report reads results and nothing of gin; leave --gin_file, --gin.… and --module_import out")
    return []


def _run(args, configuration) -> None:
    from cd_jax.report import gather

    print(gather.report(args.model_dir))


VERB = verbs.Verb(
    help="gather results into a table, results.json and report.html",
    place=11,
    run=_run,
    statements=_refuse_gin,
)
