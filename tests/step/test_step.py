"""Memory and the contrastive term inside the training step, against loops over what the solver says of each text."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from memories import normal, retrieve_slowly
from test_solver import VOCAB, make_solver, random_passages

from cd_jax.errors import RequestError
from cd_jax.losses import contrastive, cross_entropy
from cd_jax.memory.entries import Entry
from cd_jax.memory.episodic import EpisodicMemory
from cd_jax.memory.negatives import pool, samplers
from cd_jax.memory.negatives import prior as priors
from cd_jax.memory.negatives.pool import Draw, Labels, Pool
from cd_jax.nets.config import T5Config
from cd_jax.nets.network import T5
from cd_jax.step.reader import Reader
from cd_jax.step.tables import Memories, Split, Taught
from cd_jax.step.terms import contrastive as contrastive_term
from cd_jax.step.terms.contrastive import Contrast

CONFIG = T5Config(
    emb_dim=16, num_heads=4, head_dim=4, mlp_dim=32, num_encoder_layers=1, num_decoder_layers=1, dropout_rate=0.0
)
K, TEMPERATURE, LENGTH = 3, 0.5, 16
ORDINALS = ((3, 0), (4, 5))

# Seven examples; 3 and 4 have an update in common (texts 4), 0 has two. A batch shows 0 twice.
EXAMPLE = np.array([0, 1, 2, 3, 4, 5, 6, 0], np.int32)
LESSON = np.array([0, 2, 3, 4, 5, 6, 7, 1], np.int32)
TEXTS = np.array([0, 1, 2, 3, 4, 4, 5, 6], np.int32)
TASKS = np.array([0, 0, 1, 1, 2, 2, 0], np.int32)
ANSWERS = np.array([0, 1, 1, 2, 0, 3, 0], np.int32)
PROMPTS = random_passages(7, 1, 9, seed=1)[:, 0]
UPDATES = random_passages(8, 1, 6, seed=2)[:, 0]
UPDATES[5] = UPDATES[4]
# What the memory holds is longer than what the batch learns: two updates of example 0, and of others one; then some of
# examples that are not asked. Rows 4 and 11 are free.
OF_ROW = np.array([0, 0, 1, 2, -1, 3, 4, 5, -1, -1, -1, -1], np.int32)
HELD = np.array([row not in (4, 11) for row in range(12)])
TEXT_OF_ROW = np.where(HELD, [0, 1, 2, 3, 0, 4, 4, 5, 20, 21, 22, 0], -1).astype(np.int32)
MEMORY = random_passages(12, 1, 7, seed=3)[:, 0]
for row, text in enumerate(TEXT_OF_ROW):
    if 0 <= text < 7:
        MEMORY[row] = np.pad(UPDATES[TEXTS.tolist().index(text)], (0, 1))
CONTEXTS = random_passages(12, 1, 9, seed=4)[:, 0]
# What the solver said before wrong answers: of example 1 and 4 nonsense, of example 2 what explains it.
WRONG = np.zeros((7, 7), np.int32)
WRONG[[1, 4]] = random_passages(2, 1, 7, seed=5)[:, 0]
WRONG[2] = np.pad(UPDATES[3], (0, 1))
COUNTS = np.array([False, True, False, False, True, False, False])


def batch_of():
    targets = random_passages(8, 1, 7, seed=6)[:, 0]
    return {
        "example": EXAMPLE,
        "lesson": LESSON,
        "positive": UPDATES[LESSON],
        "encoder_input_tokens": PROMPTS[EXAMPLE][:, None],
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": (targets != 0).astype(np.float32),
    }


@functools.cache
def small():
    """A solver on one device, parameters that no test may change, and the keys under them."""
    solver = make_solver(CONFIG)
    params = solver.init(0).params
    return solver, params, solver.embed(params, CONTEXTS, 12)


def memory_on(mesh, keys, **settings):
    memory = EpisodicMemory(**{"capacity": 12, "num_queries": 2, "num_axes": 4, "mesh": mesh} | settings)
    owners = [f"e{OF_ROW[row]}" if OF_ROW[row] >= 0 else f"other {row}" for row in range(12)]
    memory.add([Entry(owner, f"prompt {row}", f"update {row}") for row, owner in enumerate(owners)])
    memory.remove(np.flatnonzero(~HELD))
    memory.write(keys)
    return memory


def contrast_of(score="embedding", sampler="bayesian", weight=0.3, **settings):
    return Contrast(weight, score, sampler, **{"num_negatives": K, "temperature": TEMPERATURE} | settings)


def reader_of(memory, contrast=None, queries="random"):
    terms = (contrast,) if contrast else ()
    settings = (ORDINALS, LENGTH, LENGTH // 2, queries, terms, memory.layout)
    return Reader(memory.picked, memory.look_up, memory.count, *settings)


def memories_of(solver, memory, states=None, seed=0):
    """What the reader reads: the vectors are older than the parameters, as they are in the course of an epoch."""
    vectors = contrastive.normalize(normal(12, 16, seed=seed + 1))
    labels = Labels(OF_ROW, TEXT_OF_ROW, *(np.where(OF_ROW < 0, 0, of[OF_ROW]) for of in (TASKS, ANSWERS)))
    counts = priors.count(priors.empty(3, 4), labels.tasks, labels.answers, HELD.astype(np.float32))
    evidence = np.abs(normal(2, 3, 4, seed=seed + 2))
    counts = counts._replace(right=evidence[0], wrong=evidence[1])
    split = Split(memory.owner_ids([f"e{i}" for i in range(7)]), np.arange(7, dtype=np.int32), TASKS, ANSWERS, TEXTS)
    replicated = jax.sharding.NamedSharding(solver.mesh, jax.sharding.PartitionSpec())
    taught = jax.device_put((split, Taught(counts, WRONG)), replicated)
    place = memory.layout.place
    candidates = Pool(place(np.asarray(vectors)), place(MEMORY), Labels(*(place(column, -1) for column in labels)))
    return Memories(memory.store, candidates, taught[0], None if states is None else place(states), taught[1])


@pytest.fixture
def taken(monkeypatch):
    """What was drawn and mixed in the jitted step, by name."""
    taken = {}

    def listen(module, name, told):
        real = getattr(module, name)

        def heard(*arguments):
            result = real(*arguments)
            jax.debug.callback(
                lambda value: taken.update({name: jax.tree.map(np.array, value)}), told(arguments, result)
            )
            return result

        monkeypatch.setattr(module, name, heard)

    listen(pool, "draw", lambda arguments, drawn: drawn)
    listen(contrastive, "mixed_embeddings", lambda arguments, vectors: arguments[-1])
    return taken


def compiled_term(contrast):
    """By a seed, what the reader adds to the loss of one batch, without retrieval."""
    solver, params, keys = small()
    memory = memory_on(solver.mesh, keys)
    reader, memories = reader_of(memory, contrast, "off"), memories_of(solver, memory)
    read = jax.jit(lambda params, *arguments: reader(solver._bind(params), *arguments)[1])

    def term(seed=0):
        with solver._on_mesh():
            [added] = read(params, batch_of(), memories, jax.random.key(seed)).values()
        jax.effects_barrier()
        return float(added)

    return term


# The term


def texts_of(drawn: Draw, in_batch: bool):
    """Of each row: the positive, what was drawn, and what was wrong. `[rows, 1 + K + 1, 7]`"""
    texts = np.zeros((8, K + 2, 7), np.int32)
    for b in range(8):
        texts[b, 0, :6] = UPDATES[LESSON[b]]
        for j, candidate in enumerate(drawn.candidates[b]):
            if in_batch:
                texts[b, 1 + j, :6] = UPDATES[LESSON[candidate]]
            else:
                texts[b, 1 + j] = MEMORY[candidate]
        texts[b, -1] = WRONG[EXAMPLE[b]]
    return texts


def embedded(texts):
    """f(x) of each row, g(u) of each of its texts, of length 1, in double precision."""
    solver, params, _ = small()
    contexts = solver.embed(params, PROMPTS[EXAMPLE], 8).astype(float)
    vectors = solver.embed(params, texts.reshape(-1, 7), 8).astype(float).reshape(8, -1, 16)
    length = np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
    return contexts / np.linalg.norm(contexts, axis=-1, keepdims=True), vectors / length


def scores_slowly(texts, score):
    if score == "embedding":
        contexts, vectors = embedded(texts)
        return np.array(
            [[vector @ context / TEMPERATURE for vector in v] for context, v in zip(contexts, vectors, strict=True)]
        )
    solver, params, _ = small()
    scores = np.zeros(texts.shape[:2])
    for j in range(texts.shape[1]):
        nats = solver.score(params, PROMPTS[EXAMPLE][:, None], texts[:, j]).astype(float)
        scores[:, j] = [nats[b].sum() / max((texts[b, j] != 0).sum(), 1) for b in range(8)]
    return scores


def mixed_slowly(texts, mixtures):
    """Scores of the synthetic negatives `[rows, mixtures]`."""
    contexts, vectors = embedded(texts)
    scores = np.zeros(mixtures.first.shape)
    for b, m in np.ndindex(*scores.shape):
        first, second = (vectors[b, 1 + of[b, m]] for of in (mixtures.first, mixtures.second))
        pair = mixtures.share[b, m] * first + (1 - mixtures.share[b, m]) * second
        mixed = mixtures.anchor_share[b, m] * contexts[b] + (1 - mixtures.anchor_share[b, m]) * pair
        scores[b, m] = mixed @ contexts[b] / np.linalg.norm(mixed) / TEMPERATURE
    return scores


def term_slowly(contrast, taken, counts=COUNTS):
    drawn = taken["draw"]
    texts = texts_of(drawn, contrast.sampler == "in_batch")
    scores = scores_slowly(texts, contrast.score)
    losses_of_rows = []
    for b in range(8):
        pairs = list(zip(drawn.log_weights[b].astype(float), scores[b, 1:-1], strict=True))
        if contrast.sampler == "mixed":
            synthetic = mixed_slowly(texts, taken["mixed_embeddings"])[b]
            pairs += [(float(drawn.log_weights[b, 0]), score) for score in synthetic]
        if counts[EXAMPLE[b]]:
            pairs.append((0.0, scores[b, -1]))
        negative = sum(np.exp(log_weight + score) for log_weight, score in pairs)
        positive = np.exp(scores[b, 0])
        if contrast.sampler == "debiased":
            false, true = drawn.mass[0][b], drawn.mass[1][b]
            lowest = np.exp(-1 / TEMPERATURE) if contrast.score == "embedding" else 0.0
            negative = max(negative - false * positive, true * lowest)
        losses_of_rows.append(-np.log(positive / (positive + negative)))
    return np.mean(losses_of_rows)


@pytest.mark.parametrize(
    ("score", "sampler"),
    [("embedding", name) for name in samplers.SAMPLERS]
    + [("sequence", name) for name in ("in_batch", "debiased", "bayesian")],
)
def test_the_term_is_info_nce_of_what_was_drawn(taken, score, sampler):
    contrast = contrast_of(score, sampler)
    added = compiled_term(contrast)()
    drawn = taken["draw"]
    assert added == pytest.approx(0.3 * term_slowly(contrast, taken), rel=1e-4)
    # What the solver said before a wrong answer tells; what explains the example, and what was not said, do not.
    for counts in (COUNTS & False, COUNTS | (np.arange(7) == 2)):
        assert added != pytest.approx(0.3 * term_slowly(contrast, taken, counts), rel=5e-4)
    in_batch = sampler == "in_batch"
    of, text = (EXAMPLE, TEXTS[LESSON]) if in_batch else (OF_ROW, TEXT_OF_ROW)
    for b, row in enumerate(drawn.candidates):
        assert len(set(row)) == K
        assert all(of[j] != EXAMPLE[b] and text[j] not in (-1, TEXTS[LESSON[b]]) for j in row)


def test_the_draw_is_for_the_contexts_under_the_present_parameters(taken, monkeypatch):
    """And of vectors as old as the keys: the same key draws the same outside of the step."""
    solver, params, keys = small()
    asked, draw = [], pool.draw

    def heard(key, *arguments):
        jax.debug.callback(lambda data: asked.append(np.array(data)), jax.random.key_data(key))
        return draw(key, *arguments)

    monkeypatch.setattr(pool, "draw", heard)
    term = compiled_term(contrast_of(hardness=2.0))
    drawn = [(term(seed), taken["draw"])[1] for seed in (0, 0, 1)]
    monkeypatch.undo()
    of = memories_of(solver, memory_on(solver.mesh, keys))
    contexts = solver.embed(params, PROMPTS[EXAMPLE], 8)
    anchors = Labels(EXAMPLE, TEXTS[LESSON], TASKS[EXAMPLE], ANSWERS[EXAMPLE])
    sampler = functools.partial(samplers.bayesian, hardness=2.0)
    # Of the rows that there are: those that fill up the last part change no draw.
    held = jax.tree.map(lambda column: column[:12], of.candidates)
    for data, found in zip(asked, drawn, strict=True):
        key = jax.random.wrap_key_data(jnp.asarray(data))
        expected = pool.draw(key, held, of.taught.counts, contexts, anchors, sampler, K, TEMPERATURE)
        np.testing.assert_array_equal(found.candidates, expected.candidates)
        np.testing.assert_allclose(found.log_weights, expected.log_weights, atol=1e-3)
    np.testing.assert_array_equal(drawn[0].candidates, drawn[1].candidates)
    assert (drawn[0].candidates != drawn[2].candidates).any()


@pytest.mark.parametrize(("sampler", "most"), [("in_batch", 8), ("uniform", 12), ("hard", 12)])
def test_more_negatives_than_there_are_updates(sampler, most):
    with pytest.raises(RequestError, match=rf"^Contrast\.num_negatives={most + 1} of a \w+ of {most} updates; bind"):
        compiled_term(contrast_of(sampler=sampler, num_negatives=most + 1))()


# The whole step


def plain_sgd(learning_rate) -> optax.GradientTransformation:
    """Parameters before less parameters after are the gradient."""
    del learning_rate
    return optax.sgd(1.0)


def passages_by_hand(rows):
    """`[batch, passages, LENGTH]` of the rows of the memory that were retrieved."""
    joined = np.zeros((*rows.shape, LENGTH), np.int32)
    for b, i in np.ndindex(*rows.shape):
        head = [token for token in ORDINALS[i] if token]
        if rows[b, i] >= 0:
            head += [token for token in MEMORY[rows[b, i]] if token][: LENGTH // 2]
        prompt = [token for token in PROMPTS[EXAMPLE[b]] if token]
        tokens = head + prompt[max(len(prompt) - (LENGTH - len(head)), 0) :]
        joined[b, i, : len(tokens)] = tokens
    return joined


def plain_loss(params, batch, contrast, rows, taken):
    """Cross-entropy and the term, from the network's logits and embeddings; what was drawn are constants."""
    apply = functools.partial(T5(dataclasses.replace(CONFIG, vocab_size=VOCAB)).apply, {"params": params})
    logits = apply(passages_by_hand(rows), batch["decoder_input_tokens"])
    entropy = cross_entropy.token_weighted_cross_entropy(
        logits, batch["decoder_target_tokens"], batch["decoder_loss_weights"]
    )
    drawn, prompts = taken["draw"], PROMPTS[EXAMPLE]
    texts = texts_of(drawn, False)
    log_weights = np.concatenate([drawn.log_weights, np.where(COUNTS[EXAMPLE], 0, -np.inf)[:, None]], 1)
    if contrast.score == "sequence":
        told = texts.reshape(-1, 7)
        logits = apply(np.repeat(prompts, K + 2, 0)[:, None], np.pad(told, ((0, 0), (1, 0)))[:, :-1])
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), told[..., None], -1)[..., 0]
        there = told != 0
        scores = ((log_p * there).sum(-1) / np.maximum(there.sum(-1), 1)).reshape(8, -1)
    else:
        contexts = apply(prompts, method="pool")
        contexts /= jnp.linalg.norm(contexts, axis=-1, keepdims=True)
        vectors = apply(texts.reshape(-1, 7), method="pool").reshape(8, -1, 16)
        # The length of nothing has no gradient.
        nothing = (texts == 0).all(-1)[..., None]
        vectors = jnp.where(nothing, 1.0, vectors)
        vectors /= jnp.linalg.norm(vectors, axis=-1, keepdims=True)
        if "mixed_embeddings" in taken:
            synthetic = jax.lax.stop_gradient(mixed(contexts, vectors[:, 1:-1], taken["mixed_embeddings"]))
            vectors = jnp.concatenate([vectors, synthetic], 1)
            log_weights = np.concatenate([log_weights, np.tile(log_weights[:, :1], (1, synthetic.shape[1]))], 1)
        scores = (contexts[:, None] * vectors).sum(-1) / TEMPERATURE
    positive, negative = jnp.exp(scores[:, 0]), (np.exp(log_weights) * jnp.exp(scores[:, 1:])).sum(-1)
    if contrast.sampler == "debiased":
        negative = jnp.maximum(negative - drawn.mass[0] * positive, 0.0)
    added = contrast.weight * jnp.log1p(negative / positive).mean()
    return entropy + added, (entropy, added)


def mixed(contexts, drawn, mixtures):
    first, second = (drawn[np.arange(8)[:, None], of] for of in (mixtures.first, mixtures.second))
    share, of_anchor = mixtures.share[..., None], mixtures.anchor_share[..., None]
    together = of_anchor * contexts[:, None] + (1 - of_anchor) * (share * first + (1 - share) * second)
    return together / jnp.linalg.norm(together, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("score", "sampler", "weight"),
    [
        ("embedding", "bayesian", 0.3),
        pytest.param("embedding", "mixed", 1.5, marks=pytest.mark.slow),
        ("sequence", "debiased", 2.0),
    ],
)
def test_the_gradient_is_that_of_the_plain_loss(taken, score, sampler, weight):
    """Nothing else has one: neither the queries of the retrieval nor what is drawn, nor the vectors of the memory."""
    solver, keys = make_solver(CONFIG, optimizer=plain_sgd), small()[2]
    contrast = contrast_of(score, sampler, weight, num_negatives=K)
    memory, batch, state = memory_on(solver.mesh, keys), batch_of(), solver.init(0)
    before = jax.tree.map(np.array, state.params)
    state, metrics = solver.train_step(state, batch, 0, reader_of(memory, contrast), memories_of(solver, memory))
    jax.effects_barrier()
    rows = np.asarray(metrics["seen"]["rows"])
    plain = jax.jit(jax.grad(lambda params: plain_loss(params, batch, contrast, rows, taken), has_aux=True))
    expected, (entropy, added) = plain(before)
    assert float(metrics["loss"]) == pytest.approx(float(entropy), rel=1e-5)
    assert float(metrics["contrastive_loss"]) == pytest.approx(float(added), rel=1e-4) and added > 1e-3
    found = jax.tree.map(lambda b, a: b - np.asarray(a), before, state.params)
    jax.tree.map(lambda f, e: np.testing.assert_allclose(f, e, atol=2e-5 + 1e-3 * np.abs(e).max()), found, expected)


@functools.cache
def steps_on(data, model, score):
    """Rows and queries seen, and losses, of two steps on a mesh."""
    solver, keys = make_solver(CONFIG, data, model, data * model), small()[2]
    memory = memory_on(solver.mesh, keys)
    reader, memories, state, told = (
        reader_of(memory, contrast_of(score)),
        memories_of(solver, memory),
        solver.init(0),
        [],
    )
    for _ in range(2):
        state, metrics = solver.train_step(state, batch_of(), 5, reader, memories)
        told.append(jax.device_get(metrics))
    return memory, told


@pytest.mark.parametrize(
    ("data", "model", "score"), [pytest.param(8, 1, "embedding", marks=pytest.mark.slow), (2, 4, "sequence")]
)
def test_eight_devices_step_as_one(data, model, score):
    memory, told = steps_on(data, model, score)
    vectors = memory.store.keys.vectors
    assert vectors.sharding.spec[0] == "data" and vectors.addressable_shards[0].data.shape[0] == len(vectors) // data
    for one, other in zip(steps_on(1, 1, score)[1], told, strict=True):
        for name in ("rows", "queries"):
            np.testing.assert_array_equal(other["seen"][name], one["seen"][name])
        for name in ("contexts", "distances"):
            np.testing.assert_allclose(other["seen"][name], one["seen"][name], rtol=1e-3, atol=1e-3)
        for name in ("loss", "contrastive_loss", "grad_norm"):
            assert float(other[name]) == pytest.approx(float(one[name]), rel=1e-4)


def test_what_is_retrieved_is_what_a_slow_loop_finds():
    memory, (first, second) = steps_on(1, 1, "embedding")
    owners = [f"e{i}" for i in EXAMPLE]
    rows, distances = retrieve_slowly(memory, first["seen"]["contexts"], owners, first["seen"]["queries"])
    np.testing.assert_array_equal(first["seen"]["rows"], rows)
    np.testing.assert_allclose(first["seen"]["distances"], distances, rtol=1e-3, atol=1e-3)
    # Another step asks other queries.
    assert (first["seen"]["queries"] != second["seen"]["queries"]).any()


def test_nothing_compiles_anew_from_step_to_step_and_from_epoch_to_epoch(monkeypatch):
    """A reader is made for every step, and every epoch has other keys, vectors, counts and wrong updates."""
    traced = []
    real = Reader.__call__
    monkeypatch.setattr(Reader, "__call__", lambda *arguments: traced.append(1) or real(*arguments))
    solver = make_solver(CONFIG)
    memory, state = memory_on(solver.mesh, small()[2], evict="oldest"), solver.init(0)
    for epoch in range(3):
        memory.write(solver.encode_rows(state.params, CONTEXTS, 12))
        memories = memories_of(solver, memory, seed=epoch)
        wrong = memories.taught.wrong.at[epoch].set(epoch + 7)
        memories = memories._replace(taught=memories.taught._replace(wrong=wrong))
        for _ in range(3):
            state, metrics = solver.train_step(state, batch_of(), 0, reader_of(memory, contrast_of()), memories)
            memory.count_use(metrics["seen"]["rows"])
    assert len(traced) == solver._train_step._cache_size() == 1
    assert int(state.step) == 9 and memory.used.sum() == 9 * 16


# What is read


@dataclasses.dataclass(frozen=True)
class _Finds:
    """In the place of an index: the same rows for each query, whatever it asks."""

    rows: tuple[int, ...]

    def __call__(self, keys, queries, count):
        shape = (len(queries), count)
        return jnp.broadcast_to(jnp.array([self.rows]), shape), jnp.zeros(shape, jnp.float32)


def read_with(found, queries="fixed", states=None):
    solver, params, keys = small()
    memory = memory_on(solver.mesh, keys)
    reader = dataclasses.replace(reader_of(memory, queries=queries), look_up=_Finds(found), count=len(found))
    return solver.read(params, batch_of(), reader, memories_of(solver, memory, states))


def test_what_is_retrieved_stands_in_the_passages():
    """Row 0 is example 0's own; and once nothing is left, the passage holds the prompt alone."""
    read, seen = read_with((0, 8))
    expected = np.array([[8, -1] if example == 0 else [0, 8] for example in EXAMPLE])
    np.testing.assert_array_equal(seen["rows"], expected)
    np.testing.assert_array_equal(read["encoder_input_tokens"], passages_by_hand(expected))
    assert "cached" not in read
    assert seen["queries"].tolist() == [[1, 0]] * 8


def test_cached_states_stand_beside_the_prompt():
    states = normal(12, 7, 16)
    read, seen = read_with((0, 8), states=states)
    np.testing.assert_array_equal(read["encoder_input_tokens"], PROMPTS[EXAMPLE][:, None])
    for b, rows in enumerate(np.asarray(seen["rows"])):
        for i, row in enumerate(rows):
            here = slice(7 * i, 7 * (i + 1))
            np.testing.assert_array_equal(read["cached"].tokens[b, here], MEMORY[row] if row >= 0 else np.zeros(7))
            if row >= 0:
                np.testing.assert_array_equal(read["cached"].states[b, here], states[row])


def test_without_retrieval_the_prompt_alone_is_read():
    """And where there is no term either, nothing is encoded for its sake."""
    read, seen = read_with((0, 8), "off")
    np.testing.assert_array_equal(read["encoder_input_tokens"], PROMPTS[EXAMPLE][:, None])
    assert seen == {} and "cached" not in read


# Bindings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"score": "cosine"}, "Contrast.score='cosine' is none of sequence, embedding"),
        ({"sampler": "random"}, "Contrast.sampler='random' is none of uniform, in_batch, hard, mixed, debiased, bay"),
        ({"sampler": "mixed", "score": "sequence"}, "Contrast.sampler='mixed' mixes embeddings; bind Contrast.score"),
        ({"weight": -0.1}, "Contrast: bind weight and attempts to 0 or more, temperature above 0"),
        ({"temperature": 0.0}, "Contrast: bind weight and attempts to 0 or more, temperature above 0"),
        ({"num_negatives": 0}, "Contrast: bind weight and attempts to 0 or more, temperature above 0"),
        ({"attempts": -1}, "Contrast: bind weight and attempts to 0 or more, temperature above 0"),
    ],
)
def test_bindings_that_do_not_go_together(settings, said):
    with pytest.raises(RequestError) as raised:
        Contrast(**settings)
    # Gin adds lines, which the command line leaves out.
    assert str(raised.value).splitlines()[0].startswith(said)


def test_what_may_be_bound():
    for sampler in samplers.SAMPLERS:
        for score in contrastive_term.SCORES:
            if (sampler, score) != ("mixed", "sequence"):
                assert Contrast(sampler=sampler, score=score) == Contrast(sampler=sampler, score=score)
