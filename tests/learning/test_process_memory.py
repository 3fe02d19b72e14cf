"""What the student finds in memory for a step, and what it learns beside the parameters."""

import collections
import json

import jax
import memories
import numpy as np
import processes
import pytest
from processes import BATCH, assert_same, decode, drawn, learn, make, memory_of, read, study, train_step

from cd_jax.step.terms.contrastive import Contrast

TERM = Contrast(weight=0.5, num_negatives=2, attempts=20)
SAID = "because Mary is here."


@pytest.fixture(scope="module")
def source():
    return processes.source()


@pytest.fixture(scope="module")
def vocabulary():
    return processes.vocabulary()


@pytest.fixture(scope="module")
def solver():
    return processes.solver()


@pytest.fixture(scope="module")
def params():
    return processes.params()


@pytest.fixture(scope="module")
def remembering():
    return processes.remembering()


@pytest.fixture(scope="module")
def one(remembering):
    return study(remembering)


@pytest.fixture(scope="module")
def found(remembering, params, one):
    """The examples of an epoch, and what was seen of them as in evaluation."""
    batches, rows = drawn(remembering, one)
    return rows["example"], read(remembering, params, one, batches, training=False)[1]


class TestMemory:
    """What the step finds for its batch."""

    def test_keys_are_the_embeddings_of_the_contexts(self, remembering, params, vocabulary, solver):
        memory = memory_of(remembering)
        assert memory.keys.shape == (60, 16)
        for i in (0, 17, 59):
            context = np.array([[*vocabulary.encode(memory.entries[i].prompt), 1]], np.int32)
            # Alone and without padding.
            alone = solver.embed(params, context, BATCH)[0]
            np.testing.assert_allclose(memory.keys[i], alone, atol=1e-5)

    def test_contexts_are_embedded_as_keys_are(self, found, params, source, solver):
        examples, seen = found
        for i in (0, 17, 39):
            alone = solver.embed(params, source.inputs[examples[i]].numpy()[None], BATCH)[0]
            np.testing.assert_allclose(seen["contexts"][i], alone, atol=1e-5)

    def test_retrieves_from_others(self, remembering, params, one, found, source):
        batches, _ = drawn(remembering, one)
        examples, seen = found
        for rows in (seen["rows"], read(remembering, params, one, batches, training=True)[1]["rows"]):
            assert rows.shape == (40, 2)
            for example, row in zip(examples, rows, strict=True):
                assert len(set(row)) == 2
                families = {memory_of(remembering).entries[i].family for i in row}
                assert source.examples[example].family not in families

    def test_retrieves_what_is_nearest(self, remembering, found, source):
        examples, seen = found
        assert seen["queries"].tolist() == [[1, 0]] * 40
        owners = [source.examples[example].family for example in examples]
        _, expected = memories.retrieve_slowly(memory_of(remembering), seen["contexts"], owners, seen["queries"])
        assert expected.max() > 0.1
        np.testing.assert_allclose(seen["distances"], expected, atol=1e-4)

    def test_new_parameters_new_keys(self, params, remembering):
        other = make("cd_memory")
        other.refresh(params)
        np.testing.assert_array_equal(memory_of(other).keys, memory_of(remembering).keys)
        other.refresh(jax.tree.map(lambda p: p * 1.5, params))
        assert not np.allclose(memory_of(other).keys, memory_of(remembering).keys)

    @pytest.mark.slow
    def test_every_step_asks_other_queries(self, remembering, params, solver, one):
        remembering.refresh(params)

        def queries(seed):
            with processes.seen_in_training() as seen:
                learn(remembering, solver.init(0), one, 2, seed)
            return [of_step["queries"].tolist() for of_step in seen]

        before = memory_of(remembering).used.sum()
        first = queries(0)
        assert queries(0) == first
        assert first[0] != first[1]
        assert all(of_step not in first for of_step in queries(1))
        # What the steps retrieved was counted; what is read outside of training is not.
        assert memory_of(remembering).used.sum() - before == 3 * 2 * BATCH * 2

    def test_agents_without_memory_remember_nothing(self, params, tmp_path):
        agent = make("cd_finetune")
        agent.refresh(params)
        agent.prepare(params, 0, 0)
        agent.save_memory(tmp_path)
        assert agent.state() == {} and not list(tmp_path.iterdir())

    @pytest.mark.slow
    def test_retrieval_off_trains_as_an_agent_without_memory_does(self, params, solver, source):
        """And reads the memory in evaluation."""
        ends = []
        reading, plain = make("cd_memory", train_retrieval="off"), make("cd_finetune")
        for agent in (reading, plain):
            one = study(agent)
            state = solver.init(0)
            agent.prepare(state.params, 0, 0)
            state = learn(agent, state, one, 4)
            ends.append(jax.device_get(state))
        assert_same(*ends)
        assert (ends[0].params["token_embedder"]["embedding"] != params["token_embedder"]["embedding"]).any()
        one = reading.feed(source, BATCH)
        features, seen = read(reading, params, one, drawn(reading, one)[0], training=False)
        assert features["encoder_input_tokens"].shape[1] == 2 and (seen["rows"] >= 0).all()

    def test_an_example_may_be_shown_its_own(self, solver, source):
        agent = make("cd_memory", num_queries=1, train_retrieval="fixed", leave_out_own=False)
        state = solver.init(0)
        agent.refresh(state.params)
        one = study(agent)
        with processes.seen_in_training() as steps:
            learn(agent, state, one, 1)
        [seen] = steps
        example = drawn(agent, one)[1]["example"][:BATCH]
        # The only query is the key, and that of an example's own update is its own context.
        assert [memory_of(agent).entries[row].example_id for row in seen["rows"][:, 0]] == [
            source.examples[i].example_id for i in example
        ]
        np.testing.assert_allclose(seen["distances"], 0.0, atol=1e-4)

    def test_cached_passages(self, params, solver):
        agent = make("cd_memory", cache_passages=True)
        agent.refresh(params)
        one = study(agent)
        batches, rows = drawn(agent, one)
        features, seen = read(agent, params, one, batches, training=True)
        np.testing.assert_array_equal(features["encoder_input_tokens"], rows["encoder_input_tokens"])
        cached = features["cached"]
        tokens, states = cached.tokens.reshape(40, 2, -1), cached.states.reshape(40, 2, -1, 16)
        for i in range(40):
            for said, row in zip(tokens[i], seen["rows"][i], strict=True):
                assert decode(said) == memory_of(agent).entries[row].update
        alone = solver.encode_rows(params, tokens[3], BATCH, "encode")
        np.testing.assert_allclose(states[3], alone, atol=1e-5)
        # A step reads them, and what they are does not follow the parameters before they are encoded anew.
        learn(agent, solver.init(0), one, 2)
        assert memory_of(agent).used.sum() == 2 * BATCH * 2
        again, _ = read(agent, params, one, batches[:1], training=True)
        np.testing.assert_array_equal(again["cached"].states, cached.states[:BATCH])
        agent.refresh(jax.tree.map(lambda p: p * 1.5, params))
        other, _ = read(agent, params, one, batches[:1], training=True)
        assert not np.allclose(other["cached"].states.std(), cached.states[:BATCH].std(), atol=1e-3)

    @pytest.mark.parametrize(
        "other",
        [{"leave_out_own": False}, {"train_retrieval": "off"}, {"cache_passages": True}, {"contrast": lambda: TERM}],
    )
    def test_a_checkpoint_knows_other_settings(self, remembering, other):
        settings = remembering.settings()
        assert json.loads(json.dumps(settings)) == settings == make("cd_memory").settings()
        assert make("cd_memory", **other).settings() != settings


@pytest.fixture
def asked(monkeypatch):
    """Of a solver that says the same of everything: which examples it was asked, batch after batch."""
    return processes.say(monkeypatch, f"{SAID} answer: yes")


class TestContrast:
    """What an agent with a contrastive term learns beside its parameters."""

    def test_attempts_teach_the_prior_and_store_wrong_updates(self, params, source, asked):
        agent = make("cd_memory", contrast=lambda: TERM)
        study(agent)
        entries, recollection = memory_of(agent).entries, agent._recollection
        told = {}
        for epoch in range(2):
            before = {name: np.array(value) for name, value in agent.state().items()}
            assert not told or before["wrong_updates"].any()
            asked.clear()
            agent.prepare(params, epoch, 7)
            after = {name: np.array(value) for name, value in agent.state().items()}
            # 20 attempts fill two batches of 16.
            attempted = sum(asked, [])[:20]
            assert len(asked) == 2 and len(set(attempted)) == 20
            told |= {i: "" if source.examples[i].answer == "yes" else SAID for i in attempted}
            stored = [decode(tokens) for tokens in after["wrong_updates"]]
            assert stored == [told.get(i, "") for i in range(35)]
            # How common answers are is counted once.
            expected = collections.Counter((entry.task, entry.answer) for entry in entries)
            for (task, answer), count in expected.items():
                cell = recollection._tasks[task], recollection._answers[answer]
                assert after["prior_answers"][cell] == count
            assert after["prior_answers"].sum() == 60
            # Both outcomes are evidence for the tasks in which they were seen, and at most 1 for a memory.
            for name, right in (("prior_right", True), ("prior_wrong", False)):
                learnt = (after[name] - before[name]).sum(1)
                of_task = collections.Counter(
                    source.examples[i].task for i in attempted if (source.examples[i].answer == "yes") == right
                )
                most = np.zeros(len(learnt))
                for task, count in of_task.items():
                    most[recollection._tasks[task]] = 2 * count
                assert most.any()
                assert ((learnt > 0) == (most > 0)).all() and (learnt <= most + 1e-4).all()
        assert len(told) > 20
        assert memory_of(agent).used.sum() == 0

    @pytest.mark.parametrize("idle", [Contrast(weight=0.0), Contrast(weight=0.5, attempts=0)])
    def test_without_a_term_or_without_attempts_nothing_is_attempted(self, params, asked, idle):
        agent = make("cd_memory", contrast=lambda: idle)
        study(agent)
        agent.prepare(params, 0, 0)
        assert asked == []
        assert ("wrong_updates" in agent.state()) == (idle.weight > 0)

    @pytest.mark.slow
    @pytest.mark.usefixtures("asked")
    def test_a_checkpoint_goes_on_exactly(self, solver):
        programs = solver._train_step._cache_size()
        first = make("cd_memory", contrast=lambda: TERM)
        one = study(first)
        state = solver.init(0)
        first.prepare(state.params, 0, 0)
        state = learn(first, state, one, 2)
        # As after an evaluation in the middle of an epoch.
        first.refresh(state.params)
        saved, kept = jax.device_get(state), {name: np.array(value) for name, value in first.state().items()}
        assert kept.keys() == {"used", "prior_answers", "prior_right", "prior_wrong", "wrong_updates"}
        assert kept["used"].sum() == 2 * BATCH * 2 and kept["wrong_updates"].any()

        def restored():
            return jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), saved, solver.abstract_state())

        def go_on(agent, one):
            return train_step(agent, restored(), drawn(agent, one)[0][2], one, 0)

        expected = go_on(first, one)
        assert expected[1]["contrastive_loss"] > 0
        first.prepare(expected[0].params, 1, 0)

        second = make("cd_memory", contrast=lambda: TERM)
        other = study(second)
        second.refresh(restored().params)
        without, _ = go_on(second, other)
        name = "token_embedder"
        assert (without.params[name]["embedding"] != expected[0].params[name]["embedding"]).any()
        second.set_state(kept, restored().params)
        assert_same(second.state(), kept)
        assert_same(go_on(second, other), expected)
        second.prepare(expected[0].params, 1, 0)
        assert_same(second.state(), first.state())
        # And again: nothing that evaluates, prepares an epoch or restores compiles the step of either anew.
        assert_same(go_on(first, one), go_on(second, other))
        assert solver._train_step._cache_size() == programs + 2
