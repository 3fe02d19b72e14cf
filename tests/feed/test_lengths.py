"""What does not fit: the counts against a plain loop over the released prompts, and what is refused."""

import dataclasses

import pytest
import tensorflow as tf

from cd_jax.errors import RequestError
from cd_jax.feed import lessons
from cd_jax.feed.lengths import Counter
from cd_jax.feed.tokens import TokenisedExamples, tokenised
from cd_jax.tasks import Catalogue
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.types import Example, Lesson, Segment
from originals import BABI_DIR, needs_babi


def counter(inputs=96, targets=32, strict=False):
    return Counter(vocabularies.load(), {"inputs": inputs, "targets": targets}, strict)


def made(*examples, updates=()):
    vocabulary = vocabularies.load()
    inputs = tf.ragged.constant([[*vocabulary.encode(example.prompt), 1] for example in examples], tf.int32)
    targets = tf.ragged.constant([[*vocabulary.encode(f"answer: {e.answer}"), 1] for e in examples], tf.int32)
    told = [
        [Lesson((Segment(text), Segment(f"answer: {example.answer}")), text) for text in own]
        for example, own in zip(examples, updates, strict=False)
    ]
    return TokenisedExamples(list(examples), inputs, targets), lessons.tokenise(told, vocabulary) if told else None


MARY = Example("t/test/0", "t", "Mary went to the kitchen. John slept. Ann slept.", "Where is Mary?", "kitchen",
               ("Mary went to the kitchen.",))  # fmt: skip


@needs_babi
@pytest.mark.parametrize("length", [96, 192, 1357])
def test_released_prompts_by_a_plain_loop(length, capfd):
    vocabulary = vocabularies.load()
    asked = tokenised(Catalogue(babi_dir=BABI_DIR), vocabulary, "babi_qa3", "test")
    cut = lost = 0
    for example in asked.examples:
        whole = len(vocabulary.encode(example.prompt)) + 1
        if whole > length:
            cut += 1
            tails = [example.prompt[example.context.rfind(fact) :] for fact in example.supporting_facts]
            lost += any(len(vocabulary.encode(tail)) + 1 > length for tail in tails)
    found = counter(length).count(asked, None, 0, 0)
    assert (found.prompts, found.facts, found.examples) == (cut, lost, 1000)
    said = capfd.readouterr().out
    assert said == "" if not cut else f"babi_qa3: {cut} of 1000 prompts are longer than INPUT_LENGTH={length}" in said
    assert not cut or "1357 would do" in said


def test_said_once_a_task(capfd):
    asked, nothing = made(MARY)
    one = counter(inputs=12)
    assert one.count(asked, nothing, 0, 0) == one.count(asked, nothing, 0, 0)
    assert one.count(asked, nothing, 0, 0).record() == {"prompts": 1.0, "facts": 1.0, "targets": 0.0}
    assert capfd.readouterr().out.count("\n") == 1


def test_what_would_do_does(capfd):
    asked, nothing = made(MARY)
    counter(inputs=12).count(asked, nothing, 0, 0)
    enough = int(capfd.readouterr().out.split("; ")[1].split()[0])
    counter(inputs=enough, strict=True).count(asked, nothing, 0, 0)
    with pytest.raises(RequestError, match=r"INPUT_LENGTH=\d+ allows .*--strict_lengths"):
        counter(inputs=enough - 1, strict=True).count(asked, nothing, 0, 0)


def test_what_memory_puts_before_a_prompt_counts():
    asked, nothing = made(MARY)
    length = int(asked.inputs.row_lengths()[0])
    assert counter(inputs=length).count(asked, nothing, 0, 0).prompts == 0
    assert counter(inputs=length).count(asked, nothing, 8, 2).prompts == 1
    assert counter(inputs=length + 8).count(asked, nothing, 8, 2).prompts == 0


def test_updates_that_lose_their_end(capfd):
    asked, learnt = made(MARY, updates=[["because", "because Mary went to the kitchen and John slept"]])
    found = counter(targets=8).count(asked, learnt, 0, 0)
    assert (found.updates, found.targets) == (2, 1) and found.record()["targets"] == 0.5
    assert "t: 1 updates are longer than TARGET_LENGTH=8" in capfd.readouterr().out


def test_neither_question_nor_answer_is_cut():
    asked, nothing = made(MARY)
    question = len(vocabularies.load().encode(MARY.question)) + 1
    answer = int(asked.targets.row_lengths()[0])
    counter(inputs=question + 2, targets=answer).count(asked, nothing, 2, 2)
    with pytest.raises(
        RequestError, match=f"INPUT_LENGTH={question} cuts the question of t/test/0; .* {question + 2} "
    ):
        counter(inputs=question).count(asked, nothing, 2, 2)
    with pytest.raises(RequestError, match=f"TARGET_LENGTH={answer - 1} cuts the answer of t/test/0; .* {answer} "):
        counter(targets=answer - 1).count(asked, nothing, 0, 0)


def test_the_answer_of_a_lesson_is_not_cut_either():
    """And is told of the example that it is of; a lesson without an update has nothing else to lose."""
    john = dataclasses.replace(MARY, example_id="t/test/1", answer="the kitchen of the office")
    asked, learnt = made(MARY, john, updates=[["because", "so"], ["because"]])
    longest = int(learnt.ends.row_lengths().numpy().max())
    counter(targets=longest).count(asked, learnt, 0, 0)
    with pytest.raises(RequestError, match=f"TARGET_LENGTH={longest - 1} cuts the answer of t/test/1; .* {longest} "):
        counter(targets=longest - 1).count(asked, learnt, 0, 0)
    alone = lessons.tokenise([[Lesson((Segment("answer: kitchen"),))]] * 2, vocabularies.load())
    found = counter(targets=longest).count(asked, alone, 0, 0)
    assert (found.updates, found.targets) == (0, 0)
