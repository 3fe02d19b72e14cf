"""Metrics of bAbI and Com2Sense, for SeqIO and for `results.json` alike."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from cd_jax.errors import RequestError
from cd_jax.feed import formats
from cd_jax.types import Example
from cd_jax.verifier import answers

# A task of bAbI counts as passed where at most 5 % of its answers are wrong (Weston et al. 2015, arXiv 1502.05698;
# Sukhbaatar et al. 2015, arXiv 1503.08895).
PASSED = 0.95
_FACETS = ("domain", "scenario")

Scores = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Target:
    """What a prediction is held against: what `postprocess` makes of a target.

    Attributes:
      answer: the expected observation.
      pair_id: as of an `Example`; so are `domain` and `scenario`.
    """

    answer: str
    pair_id: str = ""
    domain: str = ""
    scenario: str = ""


def accuracy_scores(correct: Sequence[bool], pair_ids: Sequence[str]) -> Scores:
    """Standard and, where there are complementary pairs, pairwise accuracy.

    Args:
      correct: whether each answer is right; at least one.
      pair_ids: the pair that each answer belongs to; empty where it belongs to none.

    Returns:
      `{"accuracy", "n"}`; where some pair is complete, also `pairwise_accuracy` over the complete pairs, and
      `unpaired`, the number of answers that are in none and count for the accuracy only.
    """
    scores: Scores = {"accuracy": sum(correct) / len(correct), "n": len(correct)}
    pairwise = answers.pairwise_accuracy(correct, pair_ids)
    if pairwise is None:
        return scores
    return scores | {"pairwise_accuracy": pairwise, "unpaired": answers.unpaired(pair_ids)}


def statement_scores(asked: Sequence[Example | Target], correct: Sequence[bool]) -> Scores:
    """`accuracy_scores` of all, and of each domain and scenario.

    Args:
      asked: examples, or their targets.
      correct: whether the answer to each is right.

    Returns:
      The scores; where some have a domain, also `by_domain`, `{domain: accuracy_scores}` by name, and so `by_scenario`.
      A pair whose statements differ in their domain is complete in neither.
    """
    pair_ids = [one.pair_id for one in asked]
    scores = accuracy_scores(correct, pair_ids)
    for facet in _FACETS:
        found = _scores_by([getattr(one, facet) for one in asked], correct, pair_ids)
        if found:
            scores[f"by_{facet}"] = found
    return scores


def _scores_by(names: Sequence[str], correct: Sequence[bool], pair_ids: Sequence[str]) -> dict[str, Scores]:
    """`accuracy_scores` of the answers of each name; those without a name are in none."""
    rows: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        rows.setdefault(name, []).append(i)
    return {
        name: accuracy_scores([correct[i] for i in chosen], [pair_ids[i] for i in chosen])
        for name, chosen in sorted(rows.items())
        if name
    }


def task_scores(by_task: Mapping[str, float]) -> dict[str, float | int]:
    """What the literature reports of the tasks of bAbI together.

    SeqIO evaluates every task of a mixture alone: this makes the rest of what its `Evaluator.evaluate` returns, e.g.
    `task_scores({task: scores["accuracy"] for task, scores in metrics.items()})`.

    Args:
      by_task: the accuracy of each task.

    Returns:
      `mean_task_accuracy`, each task counting alike, and `tasks_at_95`, the number of tasks of which at least 95 % are
      right.
    """
    return {
        "mean_task_accuracy": sum(by_task.values()) / len(by_task),
        "tasks_at_95": sum(accuracy >= PASSED for accuracy in by_task.values()),
    }


def example_scores(examples: Sequence[Example], correct: Sequence[bool]) -> Scores:
    """All that `results.json` says of a decoded task or mixture.

    Args:
      examples: what was asked.
      correct: whether the answer to each is right.

    Returns:
      `statement_scores`; where the examples are of several tasks, also `by_task`, `{task: {"accuracy", "n"}}` in the
      order of the examples, and `task_scores`.
    """
    # Two tasks of a mixture may hold the same pairs.
    asked = [dataclasses.replace(one, pair_id=one.pair_id and f"{one.task}/{one.pair_id}") for one in examples]
    scores = statement_scores(asked, correct)
    by_task: dict[str, list[bool]] = {}
    for one, right in zip(examples, correct, strict=True):
        by_task.setdefault(one.task, []).append(right)
    if len(by_task) < 2:
        return scores
    scores["by_task"] = {task: accuracy_scores(right, [""] * len(right)) for task, right in by_task.items()}
    return scores | task_scores({task: found["accuracy"] for task, found in scores["by_task"].items()})


def postprocess(output: str, example: Mapping[str, Any] | None = None, is_target: bool = False) -> str | Target:
    """A `postprocess_fn` of a SeqIO task: the answer in a generation, or the target.

    Args:
      output: a generation, or the text of a target.
      example: of the dataset; of its string features, `pair_id`, `domain` and `scenario` go into the target.
      is_target: whether `output` is a target.

    Returns:
      The answer of a generation, or a `Target`.
    """
    answer = formats.parse_answer(output)
    if not is_target:
        return answer
    carried = {key: example[key] for key in ("pair_id", *_FACETS) if key in example} if example else {}
    return Target(answer, **{key: text.decode() for key, text in carried.items()})


def accuracy(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """A metric function of SeqIO: exact match after normalisation.

    Args:
      targets: of `postprocess`.
      predictions: of `postprocess`.

    Raises:
      RequestError: an example has no answer.
    """
    correct = _correct(targets, predictions)
    return {"accuracy": sum(correct) / len(correct)}


def com2sense_scores(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """A metric function of SeqIO: `statement_scores`, flat, such as `by_domain/time/pairwise_accuracy`.

    Args:
      targets: of `postprocess`.
      predictions: of `postprocess`.
    """
    return _flat(statement_scores(targets, _correct(targets, predictions)))


def _correct(targets: Sequence[Target], predictions: Sequence[str]) -> list[bool]:
    if not all(target.answer for target in targets):
        raise RequestError("the split has examples without an answer, which cannot be scored; decode it with `infer`")
    return [score == 1 for score in answers.ExactMatch()(predictions, [target.answer for target in targets])]


def _flat(scores: Scores) -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, value in scores.items():
        inner = _flat(value) if isinstance(value, dict) else {"": value}
        flat |= {f"{key}/{name}".rstrip("/"): figure for name, figure in inner.items()}
    return flat


# For `metric_fns` of a seqio.Task with `postprocess_fn=postprocess`.
babi_metrics = [accuracy]
com2sense_metrics = [com2sense_scores]
