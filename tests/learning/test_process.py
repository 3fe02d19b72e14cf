"""The student, in whom the policies meet: what it shows the solver, and how attempts are verified."""

import collections
import dataclasses
import itertools

import numpy as np
import processes
import pytest
import scipy.stats
from processes import BATCH, assert_same, decode, drawn, make, memory_of, read, study, taught, tokenised_lessons

from cd_jax.errors import RequestError
from cd_jax.feed.pipeline import Draw, Feed, Share
from cd_jax.feed.tokens import TokenisedExamples, tokenised
from cd_jax.learning import evaluation
from cd_jax.proposal.iterator import DeterministicIterator
from cd_jax.solver.decoding import Decoding
from cd_jax.tasks import Catalogue
from cd_jax.types import Example


@pytest.fixture(scope="module")
def source():
    return processes.source()


@pytest.fixture(scope="module")
def updates():
    return processes.updates()


@pytest.fixture(scope="module")
def vocabulary():
    return processes.vocabulary()


@pytest.fixture(scope="module")
def params():
    return processes.params()


@pytest.fixture(scope="module")
def remembering():
    return processes.remembering()


class TestDraw:
    """`proposal` and `draw`: order of the examples, and their lessons."""

    def test_every_example_in_every_epoch(self, remembering, source):
        choices = tokenised_lessons(remembering).choices
        proposal = DeterministicIterator(len(source.examples), BATCH, seed=3)
        assert proposal.steps_per_epoch == 5
        for epoch in range(4):
            draw = remembering.draw(proposal, choices, epoch)
            assert len(draw.examples) == 40
            # The last batch is filled from the start of the epoch.
            assert sorted(draw.examples[:35]) == list(range(35))
            assert draw.examples[35:].tolist() == draw.examples[:5].tolist()
            assert all(lesson in choices[example] for example, lesson in zip(draw.examples, draw.lessons, strict=True))

    def test_seed_and_epoch_decide(self, remembering, source):
        choices = tokenised_lessons(remembering).choices

        def numbers(seed, epoch):
            draw = remembering.draw(DeterministicIterator(35, BATCH, seed), choices, epoch)
            return np.concatenate([draw.examples, draw.lessons]).tolist()

        assert numbers(0, 0) == numbers(0, 0)
        draws = [numbers(seed, epoch) for seed in range(3) for epoch in range(3)]
        assert all(one != other for i, one in enumerate(draws) for other in draws[:i])

    def test_updates_are_drawn_uniformly_and_afresh(self, remembering, source):
        choices = tokenised_lessons(remembering).choices
        proposal = DeterministicIterator(35, 35, seed=0)
        epochs = 600
        table = np.zeros((35, epochs), int)
        for epoch in range(epochs):
            draw = remembering.draw(proposal, choices, epoch)
            table[draw.examples, epoch] = draw.lessons
        for count in (2, 3):
            own = [i for i in range(35) if len(choices[i]) == count]
            ranks = np.array([table[i] - choices[i][0] for i in own])
            counts = np.bincount(ranks.ravel(), minlength=count)
            # The chance that a fair draw fails; the draw is seeded, so it passes for good once it does.
            assert len(counts) == count and scipy.stats.chisquare(counts).pvalue > 1e-3
            # Afresh: an epoch's update says nothing of the next one's.
            pairs = collections.Counter(zip(ranks[:, :-1].ravel(), ranks[:, 1:].ravel(), strict=True))
            contingency = [[pairs[a, b] for b in range(count)] for a in range(count)]
            assert scipy.stats.chi2_contingency(contingency).pvalue > 1e-3

    def test_every_order_is_as_likely(self):
        """Of 4 examples, all 24 orders."""
        orders = collections.Counter(
            tuple(DeterministicIterator(4, 4, seed=0).propose(epoch)[0].tolist()) for epoch in range(2400)
        )
        assert len(orders) == 24
        assert scipy.stats.chisquare(list(orders.values())).pvalue > 1e-3

    def test_the_baseline_draws_no_update(self):
        """The only lesson of an example is its answer."""
        baseline = make("baseline")
        one = study(baseline)
        _, rows = drawn(baseline, one)
        assert rows["lesson"].tolist() == rows["example"].tolist()
        assert one.lessons.updates == [""] * 35 and "positive" not in rows
        assert set(np.unique(rows["decoder_loss_weights"])) == {0.0, 2.0}

    def test_an_example_whose_updates_were_all_rejected(self, source, updates):
        lost = source.examples[4].example_id
        partial = {key: value for key, value in updates.items() if key != lost}
        [lesson] = taught(make("cd_finetune"), partial)[4]
        assert [segment.text for segment in lesson.target] == [f"answer: {source.examples[4].answer}"]
        assert not lesson.update


class TestBatches:
    def test_what_the_solver_reads_and_writes(self, remembering, params, source, updates, vocabulary):
        one = study(remembering)
        texts = [update.update for example in source.examples for update in updates[example.example_id]]
        draw = remembering.draw(DeterministicIterator(35, BATCH, 0), one.lessons.choices, 0)
        batches, rows = drawn(remembering, one)
        assert len(batches) == 5
        np.testing.assert_array_equal(rows["example"], draw.examples)
        np.testing.assert_array_equal(rows["lesson"], draw.lessons)
        features, seen = read(remembering, params, one, batches, training=True)
        for name in rows.keys() - {"encoder_input_tokens"}:
            np.testing.assert_array_equal(features[name], rows[name])
        for i, (example, update) in enumerate(zip(draw.examples, draw.lessons, strict=True)):
            asked = source.examples[example]
            assert decode(rows["decoder_target_tokens"][i]) == f"{texts[update]} answer: {asked.answer}"
            assert [decode(passage) for passage in rows["encoder_input_tokens"][i]] == [asked.prompt]
            assert [decode(passage) for passage in features["encoder_input_tokens"][i]] == [
                f"{ordinal}: {memory_of(remembering).entries[row].update} {asked.prompt}"
                for ordinal, row in enumerate(seen["rows"][i], 1)
            ]
            answer = len(vocabulary.encode(f"answer: {asked.answer}")) + 1
            weights = rows["decoder_loss_weights"][i]
            assert (weights == 2.0).sum() == answer
            assert (weights == 1.0).sum() == len(vocabulary.encode(texts[update]))

    def test_a_short_question_does_not_cut_what_memory_says(self, remembering, params, vocabulary):
        """Fitting the length to the task spares padding, and no word that `sequence_length` has room for."""
        entries = sorted(memory_of(remembering).entries, key=lambda entry: len(vocabulary.encode(entry.update)))
        agent = make("cd_memory", entries=[entries[0], entries[-1]])
        agent.refresh(params)
        one = agent.feed(agent.as_prompt(Example("", "", "Hm?", "", "")), BATCH)
        draw = Draw(np.zeros(BATCH, np.int32), np.full(BATCH, -1, np.int32))
        features, seen = read(agent, params, one, one.batches(draw), training=False)
        assert sorted(seen["rows"][0]) == [0, 1]
        assert [decode(passage) for passage in features["encoder_input_tokens"][0]] == [
            f"{ordinal}: {entries[-row].update} Hm?" for ordinal, row in enumerate(seen["rows"][0], 1)
        ]

    def test_sequence_length_is_kept(self):
        short = make("cd_finetune", inputs=24, targets=16)
        for batch in drawn(short, study(short))[0]:
            assert batch["encoder_input_tokens"].shape == (BATCH, 1, 24)
            assert batch["decoder_target_tokens"].shape == (BATCH, 16)

    def test_sequence_length_is_kept_of_passages(self, params, vocabulary):
        """The prompt's end stays, and half of it is the update's at most."""
        short = make("cd_memory", inputs=24)
        short.refresh(params)
        one = study(short)
        batches, rows = drawn(short, one)
        features, seen = read(short, params, one, batches, training=False)
        assert features["encoder_input_tokens"].shape == (40, 2, 24)
        for prompt, passages, found in zip(
            rows["encoder_input_tokens"][:, 0], features["encoder_input_tokens"], seen["rows"], strict=True
        ):
            for ordinal, (passage, row) in enumerate(zip(passages, found, strict=True), 1):
                said = vocabulary.encode(memory_of(short).entries[row].update)[:12]
                head = [*vocabulary.encode(f"{ordinal}:"), *said]
                expected = [*head, *prompt[prompt != 0][-(24 - len(head)) :]]
                assert passage[: len(expected)].tolist() == expected and not passage[len(expected) :].any()

    @pytest.mark.parametrize("skip", [0, 1, 3, 4, 5])
    def test_skipping_gives_the_tail(self, remembering, source, skip):
        """As a run that goes on in the middle of an epoch does."""
        learnt = tokenised_lessons(remembering)
        draw = remembering.draw(DeterministicIterator(35, BATCH, 0), learnt.choices, 1)
        whole = list(remembering.feed(source, BATCH, learnt).batches(draw))
        tail = list(remembering.feed(source, BATCH, learnt).batches(draw, skip))
        assert len(tail) == 5 - skip
        for one, other in zip(whole[skip:], tail, strict=True):
            assert_same(one, other)

    def test_a_feed_serves_one_draw_after_the_other(self, remembering, source):
        """Also where one was left in its middle, with what was prefetched of it."""
        learnt = tokenised_lessons(remembering)
        draws = [remembering.draw(DeterministicIterator(35, BATCH, 0), learnt.choices, epoch) for epoch in range(3)]
        one = remembering.feed(source, BATCH, learnt)
        for draw in draws:
            next(one.batches(draw))
            fresh = remembering.feed(source, BATCH, learnt).batches(draw)
            for expected, found in itertools.zip_longest(fresh, one.batches(draw)):
                assert_same(found, expected)

    @pytest.mark.parametrize("processes", [1, 2, 4])
    @pytest.mark.parametrize("skip", [0, 2])
    def test_processes_share_every_batch(self, source, processes, skip):
        student = make("baseline")
        whole = student.feed(source, BATCH)
        rows = np.arange(3 * BATCH, dtype=np.int32) % len(source.examples)
        draw = Draw(rows, np.full(len(rows), -1, np.int32))
        assert student.solver.local_rows(BATCH).tolist() == list(range(BATCH))
        shares = np.arange(BATCH).reshape(processes, -1)
        feeds = [
            Feed(source, None, whole.split, student._converter, whole.lengths, Share(BATCH, mine)) for mine in shares
        ]
        for expected, *found in zip(
            whole.batches(draw, skip), *(one.batches(draw, skip) for one in feeds), strict=True
        ):
            # One after the other, as `make_array_from_process_local_data` joins them.
            assert_same({name: np.concatenate([part[name] for part in found]) for name in expected}, expected)

    def test_batch_sizes_that_the_mesh_does_not_divide(self):
        made = make("baseline")
        devices = made.solver.mesh.shape["data"]
        assert made.check_batch_size("batch_size", 3 * devices) == 3 * devices
        for size in (0, -devices, devices + 1):
            with pytest.raises(RequestError, match=f"batch_size={size} is not a multiple of {devices}, the shards"):
                made.check_batch_size("batch_size", size)
        with pytest.raises(RequestError, match="eval_batch_size=9 is not"):
            make("baseline", eval_batch_size=9)


@pytest.fixture(scope="module")
def asked(vocabulary):
    return tokenised(Catalogue(), vocabulary, "babi_qa6", "test", per_task=20)


class TestAttempt:
    def test_with_memory(self, params, asked):
        agent = make("cd_memory", targets=8)
        agent.refresh(params)
        attempts = agent.attempt(params, agent.eval_feed(asked))
        assert [attempt.example for attempt in attempts] == asked.examples
        updates = {(entry.example_id, entry.update) for entry in memory_of(agent).entries}
        for attempt in attempts:
            record = attempt.record()
            assert record["prompt"] == attempt.example.prompt
            assert record["correct"] == (record["prediction"].lower() == attempt.example.answer)
            assert 0.0 <= record["score"] <= 1.0
            assert [found["query"] for found in record["retrieved"]] == ["axis 1", "key"]
            for found in record["retrieved"]:
                assert (found["example_id"], found["update"]) in updates
                assert found["distance"] >= 0
                assert 0 < found["attention"] < 1
            assert record["retrieved"][0]["update"] != record["retrieved"][1]["update"]
            shares = [record["prompt_attention"], *(found["attention"] for found in record["retrieved"])]
            assert sum(shares) == pytest.approx(1, abs=3e-4)
        assert len({attempt.retrieved[0]["attention"] for attempt in attempts}) > 1

    def test_the_tokens_of_an_update_follow_its_ordinal(self, params, asked):
        agent, encode = make("cd_memory", targets=8), processes.vocabulary().encode
        agent.refresh(params)
        own = agent._recollection.own_tokens(agent.eval_feed(asked), np.array([[3, 7], [-1, 0]]))
        start = len(encode("1:"))
        for place, row in (((0, 0), 3), ((0, 1), 7), ((1, 1), 0)):
            length = len(encode(memory_of(agent).entries[row].update))
            assert np.flatnonzero(own[place]).tolist() == list(range(start, start + length))
        assert not own[1, 0].any()

    def test_the_answer_to_the_prompt_alone(self, params, asked):
        with_memory, without = make("cd_memory", targets=8), make("cd_finetune", targets=8)
        with_memory.refresh(params)
        told = with_memory.attempt(params, with_memory.eval_feed(asked))
        alone = without.attempt(params, without.eval_feed(asked))
        assert [one.without_memory for one in told] == [one.prediction for one in alone]
        assert all(one.without_memory is None for one in alone)
        untold = with_memory.attempt(params, with_memory.eval_feed(asked), tell=False)
        assert all(one.without_memory is None and one.retrieved == [] for one in untold)

    def test_with_cached_passages(self, params, asked):
        agent = make("cd_memory", targets=8, cache_passages=True)
        agent.refresh(params)
        attempts = agent.attempt(params, agent.eval_feed(asked))
        assert [attempt.example for attempt in attempts] == asked.examples
        for attempt in attempts:
            record = attempt.record()
            assert [found["query"] for found in record["retrieved"]] == ["axis 1", "key"]
            shares = [record["prompt_attention"], *(found["attention"] for found in record["retrieved"])]
            assert all(0 < share < 1 for share in shares)
            assert sum(shares) == pytest.approx(1, abs=3e-4)

    def test_fewer_examples_get_the_same_answers(self, params, asked):
        """What fills the last batch, and who stands beside, does not show."""
        agent = make("cd_memory", targets=8)
        agent.refresh(params)
        whole = agent.attempt(params, agent.eval_feed(asked))
        few = TokenisedExamples(asked.examples[:3], asked.inputs[:3], asked.targets[:3])
        assert [attempt.generation for attempt in agent.attempt(params, agent.eval_feed(few))] == [
            attempt.generation for attempt in whole[:3]
        ]

    def test_without_memory(self, params, asked):
        agent = make("baseline", targets=8)
        attempts = agent.attempt(params, agent.eval_feed(asked))
        assert len(attempts) == 20
        assert all(attempt.retrieved == [] and attempt.prompt_attention is None for attempt in attempts)

    def test_what_is_right_is_counted_so(self, params, asked, monkeypatch):
        processes.say(monkeypatch, "because it is so. answer: yes")
        agent = make("baseline")
        attempts = agent.attempt(params, agent.eval_feed(asked))
        assert [attempt.correct for attempt in attempts] == [example.answer == "yes" for example in asked.examples]
        assert {attempt.prediction for attempt in attempts} == {"yes"}
        assert {True, False} == {attempt.correct for attempt in attempts}

    def test_one_prompt(self, params):
        agent = make("cd_memory", targets=8)
        agent.refresh(params)
        asked = agent.as_prompt(Example("", "", "Mary went to the garden.", "", ""))
        [attempt] = agent.attempt(params, agent.eval_feed(asked))
        assert len(attempt.retrieved) == 2


def test_all_samples_are_kept_and_the_first_is_scored(params, asked):
    decoding = Decoding(temperature=1.0, num_samples=3)
    student = make("cd_finetune", targets=8, decoding=lambda: decoding)
    attempts = student.attempt(params, student.eval_feed(asked))
    assert [one.example for one in attempts] == [example for example in asked.examples for _ in range(3)]
    assert [one.sample for one in attempts] == [0, 1, 2] * len(asked.examples)
    assert all(one.log_prob is not None and one.log_prob < 0 for one in attempts)
    assert len({one.generation for one in attempts}) > len(asked.examples)
    assert all({"sample", "log_prob"} <= one.record().keys() for one in attempts)
    told = [dataclasses.replace(one, correct=one.sample > 0) for one in attempts]
    entry = evaluation.summary("t", told)
    assert (entry["n"], entry["accuracy"]) == (len(asked.examples), 0.0)
