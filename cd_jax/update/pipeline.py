"""Updates beyond one machine, with Apache Beam: from the journal's answers to the updates that a single process makes.

The pipeline reads and sends nothing: a bundle that a runner tries again would pay twice. Answers come from asking, or
from batch files, into the journal; everything after them is done here, an example at a time.
"""

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from cd_jax.errors import RequestError
from cd_jax.rundir import requests as journal
from cd_jax.rundir import updates as store
from cd_jax.rundir.requests import Answer
from cd_jax.update.filters.filter import Filter, clean
from cd_jax.update.policies.explanations import Explanations
from cd_jax.update.policy import Asked

if TYPE_CHECKING:
    import apache_beam as beam

_KEPT, _REJECTED, _MISSING = "kept", "rejected", "missing"


def run(
    policy: Explanations,
    asked: Sequence[Asked],
    filters: Sequence[Filter],
    requests: str,
    output: str,
    options: Sequence[str],
) -> None:
    """Writes `OUTPUT/updates-…` and `OUTPUT/rejected-…`, in shards, and `OUTPUT/missing-…`, the hashes of requests that
    are not answered; each in no order.

    Args:
      policy: of a teacher that is asked.
      asked: the examples.
      filters: of the updates.
      requests: the journal; a pattern names several.
      output: folder, wherever Beam can write.
      options: of Beam, such as `--runner=DirectRunner`.

    Raises:
      RequestError: Beam is not installed.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise RequestError(f"the pipeline lacks a package ({error}); pip install 'cd_jax[tfds]'") from error
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        answers = pipeline | "Requests" >> beam.io.ReadFromText(requests) | "Answers" >> beam.FlatMap(_answered)
        examples = pipeline | "Examples" >> beam.Create(list(asked))
        # Bound here: Beam 2.77 refuses arguments whose annotations are protocols.
        make = functools.partial(_made, policy=policy, filters=tuple(filters))
        made = _joined(examples, answers, policy) | "Updates" >> beam.FlatMap(make)
        for kind in (_KEPT, _REJECTED, _MISSING):
            name = store.NAME.removesuffix(".jsonl") if kind == _KEPT else kind
            (
                made
                | f"Only {kind}" >> beam.Filter(lambda pair, wanted: pair[0] == wanted, kind)
                | f"Lines of {kind}" >> beam.Values()
                | f"Write {kind}" >> beam.io.WriteToText(f"{output}/{name}", ".jsonl")
            )


def _joined(examples: "beam.PCollection", answers: "beam.PCollection", policy: Explanations) -> "beam.PCollection":
    """Of each example's id, the example and what was answered of all that may be asked of it."""
    import apache_beam as beam

    wanted = examples | "Requests of examples" >> beam.FlatMap(_wanted, policy)
    given = {"wanted": wanted, "answers": answers} | "By request" >> beam.CoGroupByKey() | beam.FlatMap(_given)
    named = examples | "By example" >> beam.Map(lambda one: (one.example.example_id, one))
    return {"asked": named, "given": given} | "Together" >> beam.CoGroupByKey()


def _answered(line: str) -> Iterator[tuple[str, bytes]]:
    """The request and the answer of a line of the journal, as bytes: Beam's coders know no struct of ours."""
    found = journal.parse(line)
    if found is not None:
        yield found[0], msgspec.json.encode(found[1])


def _wanted(one: Asked, policy: Explanations) -> Iterator[tuple[str, str]]:
    for request in policy.candidates(one, 0):
        yield request.hash, one.example.example_id


def _given(pair: tuple[str, dict[str, Iterable[Any]]]) -> Iterator[tuple[str, tuple[str, bytes]]]:
    name, found = pair
    # A journal may hold an answer twice, from two ways of asking: they go by the first, whose bytes are the least.
    for answer in sorted(found["answers"])[:1]:
        for example_id in found["wanted"]:
            yield example_id, (name, answer)


def _made(
    pair: tuple[str, dict[str, Iterable[Any]]], policy: Explanations, filters: Sequence[Filter]
) -> Iterator[tuple[str, str]]:
    """Lines, and of which kind they are."""
    _, found = pair
    [one] = found["asked"]
    answers = {name: msgspec.json.decode(content, type=Answer) for name, content in found["given"]}
    [(_, updates, missing)] = policy.replay([one], 0, answers)
    cleaned = clean({one.example.example_id: one.example}, updates, filters)
    for update in cleaned.kept:
        yield _KEPT, json.dumps(store.record(update))
    of_sample = {update.sample: update for update in updates}
    for update in cleaned.rejected:
        line = store.record(of_sample[update.sample]) | {store.REASON: update.reason}
        yield _REJECTED, json.dumps(line)
    for request in missing:
        yield _MISSING, json.dumps({"example_id": one.example.example_id, "request": request.hash})
