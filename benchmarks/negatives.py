"""How many negatives a retriever needs, by sampler: one JSON line a run, then one a sampler and number of negatives.

    python benchmarks/negatives.py --samplers=uniform,hard,bayesian --negatives=4,16,64 --seeds=5 --steps=400

A small encoder of contexts and one of updates are trained by InfoNCE (the embedding form) on stories of the embedded
bAbI worlds and the oracle teacher's explanations, one for each memory. Lines: `sampler`, `negatives` a step and anchor,
`seed`, `recall_at_1` and `mrr` of the first helpful memory for contexts of held-out stories, and `false`, the share of
the drawn negatives that would have helped. The summary's lines have the mean and the ends of its 95 % interval
(Student's t over seeds) of these, and of the difference in `mrr` from `uniform` with the most negatives, seed by seed.

A memory helps where the task's reasoner, given what its update says and nothing else, finds the right answer to the
question. Many do: with four people and six places the same is said again and again, in other words or the same. The
samplers are not told. Only of the one memory that is retrieved for each anchor at each step does the verifier say
whether it helped; `debiased` and `bayesian` learn their prior from that. Two ablations stand beside them:
`bayesian_unverified`, whose prior is the frequency of the anchor's class and nothing more, and `bayesian_credulous`,
whose prior of a false negative is 0, so that only the hard draw and its weights are left.

    python benchmarks/negatives.py --figures

prints instead what the samplers' theory says and a simulation finds: the bias of the partition sum and of InfoNCE by
sampler and number of negatives, the posterior's calibration and its Brier score beside the beliefs of the others.
"""

import argparse
import functools
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats

from cd_jax.losses import contrastive
from cd_jax.memory.negatives import prior as priors
from cd_jax.memory.negatives import samplers as samplers
from cd_jax.tasks.babi import reasoners
from cd_jax.tasks.babi.worlds import generate
from cd_jax.types import Example
from cd_jax.update.teachers.oracle import OracleTeacher

TASKS = (1, 9, 11, 12)
MEMORIES_A_TASK = 150
HELD_OUT_A_TASK = 100
BATCH = 32
EMBED = 32
TEMPERATURE = 0.1
LEARNING_RATE = 5e-3
# Steps between two encodings of the memory's keys, from which negatives are drawn.
REFRESH = 25
MAX_SENTENCES = 14

FIELDS = ("recall_at_1", "mrr", "false")

NAMES = (*samplers.SAMPLERS, "bayesian_unverified", "bayesian_credulous")


def _task(example: Example) -> int:
    return int(example.task.removeprefix("babi_qa"))


@functools.cache
def _leads_to(number: int, facts: tuple[str, ...], question: str, answer: str) -> bool:
    try:
        return reasoners.answer(number, facts, question) == answer
    except ValueError:
        return False


def _helps(anchors: Sequence[Example], memories: Sequence[Example]) -> np.ndarray:
    said = [example.supporting_facts for example in memories]
    return np.array([[_leads_to(_task(a), facts, a.question, a.answer) for facts in said] for a in anchors])


def _bags(texts: Sequence[str], vocabulary: Sequence[str], sentences: int) -> np.ndarray:
    """How often each word stands in each of a text's last sentences: float32 `[texts, sentences, vocabulary]`."""
    bags = np.zeros((len(texts), sentences, len(vocabulary)), np.float32)
    for bag, text in zip(bags, texts, strict=True):
        found = _sentences(text)[-sentences:]
        for row, words in enumerate(found, sentences - len(found)):
            for word in words:
                bag[row, vocabulary.index(word)] += 1
    return bags


def _sentences(text: str) -> list[list[str]]:
    return [re.findall(r"\w+", sentence.lower()) for sentence in re.split(r"(?<=[.?])\s+", text)]


class Stories(NamedTuple):
    """The examples of one seed.

    Attributes:
      memories: those that the memory holds, and the anchors.
      updates: one of each memory.
      held_out: of other stories.
    """

    memories: list[Example]
    updates: list[str]
    held_out: list[Example]


def tell(seed: int) -> Stories:
    """The stories of a seed."""

    def examples(split: str, size: int) -> list[Example]:
        return [e for n in TASKS for e in generate.read(n, split, f"babi_qa{n}", size, seed=seed)]

    memories = examples("train", MEMORIES_A_TASK)
    updates = [OracleTeacher().explain(example, None, 1, seed)[0].text for example in memories]
    return Stories(memories, updates, examples("test", HELD_OUT_A_TASK))


def arrays(seeds: int) -> tuple[dict[str, jax.Array], int]:
    """What `Trainer` needs, with a leading axis for the seeds, and the number of answers.

    `contexts`, `updates`, `held_out`: float32 `[seeds, memories or held out, sentences, words]`, bags of words; the
    question is a context's last sentence. `tasks`, `answers`: int32 `[seeds, memories]`. `helps`, `helps_held_out`:
    bool `[seeds, memories or held out, memories]`, whether a memory helps with an example.
    """
    told = [tell(seed) for seed in range(seeds)]
    prompts = [[example.prompt for example in stories.memories] for stories in told]
    asked = [[example.prompt for example in stories.held_out] for stories in told]
    texts = [
        text for lists in (prompts, asked, [stories.updates for stories in told]) for part in lists for text in part
    ]
    words = sorted({word for text in texts for words in _sentences(text) for word in words})
    names = sorted({example.answer for stories in told for example in stories.memories})
    columns = {
        "contexts": [_bags(texts, words, MAX_SENTENCES) for texts in prompts],
        "updates": [_bags(stories.updates, words, 2) for stories in told],
        "held_out": [_bags(texts, words, MAX_SENTENCES) for texts in asked],
        "tasks": [[TASKS.index(_task(example)) for example in stories.memories] for stories in told],
        "answers": [[names.index(example.answer) for example in stories.memories] for stories in told],
        "helps": [_helps(stories.memories, stories.memories) for stories in told],
        "helps_held_out": [_helps(stories.held_out, stories.memories) for stories in told],
    }
    return {name: jnp.asarray(np.stack(column)) for name, column in columns.items()}, len(names)


class Encoder(nn.Module):
    """Two towers over one embedding of words."""

    def setup(self):
        self.words = nn.Dense(EMBED, use_bias=False)
        self.places = self.param("places", nn.initializers.zeros, (MAX_SENTENCES,))
        self.mixing = nn.Dense(EMBED, use_bias=False)
        self.asking = nn.Dense(EMBED, use_bias=False)
        self.order = self.param("order", nn.initializers.ones, (2, EMBED))
        self.of_context = [nn.Dense(2 * EMBED), nn.Dense(EMBED)]
        self.of_update = [nn.Dense(2 * EMBED), nn.Dense(EMBED)]

    def _bags(self, tokens):
        return self.words(tokens)

    def context(self, tokens):
        """`[..., sentences, words]` to `[..., embed]`: the sentences that matter to the question, by attention."""
        bags = self._bags(tokens)
        said, question = bags[..., :-1, :], bags[..., -1, :]
        before = jnp.pad(said, [(0, 0)] * (said.ndim - 2) + [(1, 0), (0, 0)])[..., :-1, :]
        said = said + self.mixing(before)
        logits = jnp.einsum("...sd,...d->...s", said, self.asking(question)) / np.sqrt(EMBED) + self.places[:-1]
        attention = jax.nn.softmax(jnp.where((tokens[..., :-1, :] > 0).any(-1), logits, -1e9))
        states = jnp.concatenate([jnp.einsum("...s,...sd->...d", attention, said), question], -1)
        return self.of_context[1](nn.relu(self.of_context[0](states)))

    def update(self, tokens):
        """`[..., sentences, words]` to `[..., embed]`."""
        return self.of_update[1](nn.relu(self.of_update[0]((self._bags(tokens) * self.order).sum(-2))))

    def __call__(self, contexts, updates):
        return self.context(contexts), self.update(updates)


class Trainer:
    """Training and evaluation with one sampler and number of negatives; every method is for one seed."""

    def __init__(self, sampler: str, k: int, num_answers: int):
        self.name, self.k, self.num_answers = sampler, k, num_answers
        self.encoder = Encoder()
        self.optimizer = optax.adam(LEARNING_RATE)
        self.sample = samplers.SAMPLERS[sampler.split("_")[0] if sampler.startswith("bayesian") else sampler]

    def init(self, key, data):
        params = self.encoder.init(key, data["contexts"][:1], data["updates"][:1])
        counts = priors.empty(len(TASKS), self.num_answers)
        counts = priors.count(counts, data["tasks"], data["answers"], jnp.ones(data["tasks"].shape))
        return params, self.optimizer.init(params), counts

    def _keys(self, params, data):
        return contrastive.normalize(self.encoder.apply(params, data["updates"], method="update"))

    def _prior(self, counts, data, anchors):
        of_anchor = functools.partial(priors.false_negative, tasks=data["tasks"], answers=data["answers"])
        prior = jax.vmap(lambda t, a: of_anchor(counts, t, a))(data["tasks"][anchors], data["answers"][anchors])
        if self.name == "bayesian_credulous":
            prior = jnp.zeros_like(prior)
        # Its own update is no negative.
        return prior.at[jnp.arange(len(anchors)), anchors].set(1.0)

    def _learn(self, counts, data, anchors, scores, prior):
        """The verifier says whether the best memory, the own one left out, leads to the right answer."""
        mask = samplers.eligible(scores, prior)
        found = jnp.where(mask, scores, -jnp.inf).argmax(-1)
        logits = jax.vmap(samplers.cdf_logit_of)(found, scores, mask)
        logits = samplers.unmixed(logits, jnp.where(mask, prior, 0.0).sum(-1) / mask.sum(-1))
        of = data["tasks"][anchors], data["answers"][anchors]
        relations = priors.relation(*of, data["tasks"][found], data["answers"][found])
        return priors.learn(counts, of[0], relations, data["helps"][anchors, found].astype(jnp.float32), logits)

    def _loss(self, params, data, anchors, drawn, key, mass):
        indices, log_weights = drawn
        context = self.encoder.apply(params, data["contexts"][anchors], method="context")
        update = functools.partial(self.encoder.apply, params, method="update")
        own, other = update(data["updates"][anchors]), update(data["updates"][indices])
        positive = contrastive.embedding_scores(context, own[:, None], TEMPERATURE)[:, 0]
        if self.name == "mixed":
            many = jax.vmap(lambda key: samplers.mixtures(key, max(self.k // 2, 1), self.k, self.k // 4))
            synthetic = contrastive.mixed_embeddings(context, other, many(jax.random.split(key, len(anchors))))
            other = jnp.concatenate([other, synthetic], 1)
            log_weights = jnp.concatenate(
                [log_weights, jnp.broadcast_to(log_weights[:, :1], synthetic.shape[:2])], axis=1
            )
        scores = contrastive.embedding_scores(context, other, TEMPERATURE)
        if self.name == "debiased":
            return contrastive.debiased_info_nce(positive, scores, log_weights, mass, -1.0 / TEMPERATURE).mean()
        return contrastive.info_nce(positive, scores, log_weights).mean()

    def steps(self, key, state, data, count):
        """`count` steps with negatives drawn by the keys as they are now; also the share of false negatives drawn."""
        keys = self._keys(state[0], data)

        def step(state, key):
            params, moments, counts = state
            draw_key, sample_key, mix_key = jax.random.split(key, 3)
            anchors = jax.random.choice(draw_key, len(data["tasks"]), (BATCH,), replace=False)
            context = self.encoder.apply(params, data["contexts"][anchors], method="context")
            scores = contrastive.normalize(context) @ keys.T / TEMPERATURE
            prior = self._prior(counts, data, anchors)
            if self.name != "bayesian_unverified":
                counts = self._learn(counts, data, anchors, scores, prior)
            pool = samplers.within_batch(scores, anchors) if self.name == "in_batch" else scores
            draw = jax.vmap(functools.partial(self.sample, k=self.k))
            drawn = draw(jax.random.split(sample_key, BATCH), pool, prior)
            mass = jax.vmap(samplers.positive_mass)(pool, prior)
            gradient = jax.grad(self._loss)(params, data, anchors, drawn, mix_key, mass)
            updates, moments = self.optimizer.update(gradient, moments)
            false = jnp.take_along_axis(data["helps"][anchors], drawn[0], 1).mean()
            return (optax.apply_updates(params, updates), moments, counts), false

        return jax.lax.scan(step, state, jax.random.split(key, count))

    def evaluate(self, state, data):
        """Recall at 1 and mean reciprocal rank, of contexts that any memory helps."""
        context = contrastive.normalize(self.encoder.apply(state[0], data["held_out"], method="context"))
        scores = context @ self._keys(state[0], data).T
        helps = data["helps_held_out"]
        best = jnp.where(helps, scores, -jnp.inf).max(-1, keepdims=True)
        # Among equal scores the helpful ones come last: an encoder that has learnt nothing gains nothing by it.
        rank = 1 + ((scores >= best) & ~helps).sum(-1)
        asked = helps.any(-1)
        return ((rank == 1) * asked).sum() / asked.sum(), (asked / rank).sum() / asked.sum()


def measure(sampler: str, k: int, steps: int, data: dict[str, jax.Array], num_answers: int) -> list[dict]:
    """The lines of all seeds, which are trained side by side."""
    trainer = Trainer(sampler, k, num_answers)

    def run(key, data):
        first, then = jax.random.split(key)
        state = trainer.init(first, data)
        chunks = jax.random.split(then, max(steps // REFRESH, 1))
        state, false = jax.lax.scan(lambda state, key: trainer.steps(key, state, data, REFRESH), state, chunks)
        return *trainer.evaluate(state, data), false.mean()

    seeds = jnp.arange(len(data["tasks"]))
    columns = jax.jit(jax.vmap(run))(jax.vmap(jax.random.key)(seeds), data)
    rows = np.round(np.stack(columns, -1).astype(float), 4).tolist()
    return [
        {"sampler": sampler, "negatives": k, "seed": seed} | dict(zip(FIELDS, row, strict=True))
        for seed, row in enumerate(rows)
    ]


def interval(values: Sequence[float]) -> list[float]:
    """The mean, and the ends of its 95 % interval."""
    if len(values) < 2:
        return [round(float(np.mean(values)), 4)] * 3
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return [round(float(np.mean(values) + side * half), 4) for side in (0, -1, 1)]


def summary(lines: Sequence[dict]) -> list[dict]:
    """A line for each sampler and number of negatives."""
    runs: dict[tuple[str, int], list[dict]] = {}
    for line in lines:
        runs.setdefault((line["sampler"], line["negatives"]), []).append(line)
    most = max((k for sampler, k in runs if sampler == "uniform"), default=None)
    found = []
    for (sampler, k), of_run in runs.items():
        row = {"sampler": sampler, "negatives": k, "seeds": len(of_run)}
        row |= {field: interval([line[field] for line in of_run]) for field in FIELDS}
        if most is not None:
            pairs = zip(of_run, runs["uniform", most], strict=True)
            row[f"mrr_less_uniform_{most}"] = interval([line["mrr"] - other["mrr"] for line, other in pairs])
        found.append(row)
    return found


def biases(draws: int = 20_000) -> Iterator[dict]:
    """Of a pool of 400 normal scores (standard deviation 2), a tenth of them of false negatives: what (1) comes to."""
    scores = np.random.default_rng(0).normal(0, 2, 400).astype(np.float32)
    prior = np.full(400, 0.1, np.float32)
    posterior = np.exp(
        samplers.log_posterior(samplers.unmixed(samplers.cdf_logit(scores, scores > -np.inf), 0.1), prior)
    )
    terms = np.exp(scores.astype(float))
    for name in ("uniform", "bayesian", "hard"):
        wanted = (terms * (posterior if name == "bayesian" else 1.0)).sum()
        for k in (1, 4, 16, 64):
            keys = jax.random.split(jax.random.key(0), draws if name != "hard" else 1)
            draw = functools.partial(samplers.SAMPLERS[name], scores=scores, prior=prior, k=k)
            indices, log_weights = jax.jit(jax.vmap(lambda key, draw=draw: draw(key)))(keys)
            sums = (np.exp(np.asarray(log_weights, float)) * terms[np.asarray(indices)]).sum(-1)
            # The positive scores as the best candidate does.
            loss = np.log1p(sums / terms.max())
            error = np.sqrt(len(sums))
            yield {
                "figure": "bias",
                "sampler": name,
                "negatives": k,
                "relative_bias_of_sum": round(sums.mean() / wanted - 1, 4),
                "standard_error": round(sums.std() / wanted / error, 4),
                "relative_spread_of_sum": round(sums.std() / wanted, 3),
                "bias_of_info_nce": round(loss.mean() - np.log1p(wanted / terms.max()), 4),
                "standard_error_of_info_nce": round(loss.std() / error, 4),
            }


def calibrations(pools: int = 200, pool: int = 1000) -> Iterator[dict]:
    """What is believed of pools whose false negatives are known: by their scores, which are so many deviations higher.

    In `model` the distributions are those that the posterior supposes. `posterior_of_pool` takes the F of the pool as
    it is, `posterior` the F that `unmixed` finds.
    """
    rng = np.random.default_rng(0)
    for p, shift in itertools.product((0.03, 0.3), ("model", 0, 1, 2, 3)):
        false, u = rng.random((pools, pool)) < p, rng.random((pools, pool))
        if shift == "model":
            scores = np.where(false, np.sqrt(u), 1 - np.sqrt(1 - u))
        else:
            scores = scipy.stats.norm.ppf(u) + false * shift
        logits = jax.vmap(samplers.cdf_logit)(jnp.asarray(scores, jnp.float32), jnp.ones(u.shape, bool))
        prior = jnp.full(u.shape, p)
        beliefs = {
            "posterior": np.exp(samplers.log_posterior(samplers.unmixed(logits, p), prior)),
            "posterior_of_pool": np.exp(samplers.log_posterior(logits, prior)),
            "prior": np.full(u.shape, 1 - p),
            "uniform_and_hard": np.ones(u.shape),
        }
        for name, belief in beliefs.items():
            yield {"figure": "posterior", "prior": p, "shift": shift, "belief": name} | _calibration(belief, ~false)


def _calibration(belief: np.ndarray, true: np.ndarray) -> dict:
    """The Brier score, and for each tenth of belief: its mean, the share of true negatives, the share of candidates."""
    bins = np.minimum((belief * 10).astype(int), 9)
    curve = [
        [round(float(x), 3) for x in (belief[bins == b].mean(), true[bins == b].mean(), (bins == b).mean())]
        for b in range(10)
        if (bins == b).any()
    ]
    return {"brier": round(float(((belief - true) ** 2).mean()), 4), "curve": curve}


def main() -> None:
    """Reads the flags and prints the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", default=",".join(NAMES), help=f"of {', '.join(NAMES)}")
    parser.add_argument("--negatives", default="4,16,64", help="a step and anchor")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400, help=f"a multiple of {REFRESH}")
    parser.add_argument("--figures", action="store_true", help="simulations instead of training")
    args = parser.parse_args()
    if args.figures:
        for line in (*biases(), *calibrations()):
            print(json.dumps(line), flush=True)
        return
    data, num_answers = arrays(args.seeds)
    lines = []
    for sampler in args.samplers.split(","):
        for k in map(int, args.negatives.split(",")):
            # Nobody else's update is left to draw.
            if sampler == "in_batch" and k >= BATCH:
                continue
            for line in measure(sampler, k, args.steps, data, num_answers):
                print(json.dumps(line), flush=True)
                lines.append(line)
    for line in summary(lines):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
