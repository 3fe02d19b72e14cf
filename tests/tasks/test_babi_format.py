"""The format of the bAbI files: what is read, what is refused, and that writing is the reverse of reading."""

import hypothesis
import pytest
from hypothesis import strategies as st

from cd_jax.errors import RequestError
from cd_jax.tasks.babi import format
from cd_jax.tasks.babi.story import Question, Story, examples

LINES = [
    "1 Mary moved to the bathroom.",
    "2 John took the milk.",
    "3 Where is Mary? \tbathroom\t1",
    "4 John took the football.",
    "5 What is John carrying?\tmilk,football\t4 2",
    "1 Sandra went to the garden.",
    "2 Where is Sandra?\tgarden\t1",
]
STORIES = [
    Story(
        (
            "Mary moved to the bathroom.",
            "John took the milk.",
            Question("Where is Mary?", "bathroom", (1,)),
            "John took the football.",
            Question("What is John carrying?", "milk,football", (4, 2)),
        )
    ),
    Story(("Sandra went to the garden.", Question("Where is Sandra?", "garden", (1,)))),
]


def parse(lines):
    return list(format.parse([line if isinstance(line, bytes) else line.encode() for line in lines], "qa1.txt"))


def test_parses_stories():
    assert parse(LINES) == STORIES


def test_examples_of_stories():
    first, second, third = examples(STORIES, "babi_qa1", "train")
    assert (first.example_id, first.task) == ("babi_qa1/train/0", "babi_qa1")
    assert first.context == "Mary moved to the bathroom. John took the milk."
    assert (first.question, first.answer) == ("Where is Mary?", "bathroom")
    assert first.supporting_facts == ("Mary moved to the bathroom.",)
    assert second.context == "Mary moved to the bathroom. John took the milk. John took the football."
    assert second.supporting_facts == ("John took the milk.", "John took the football.")
    assert (third.example_id, third.context) == ("babi_qa1/train/2", "Sandra went to the garden.")
    assert first.story_id == second.story_id != third.story_id


def test_a_story_comes_as_soon_as_the_next_one_begins():
    read = []

    def lines():
        for line in LINES:
            read.append(line)
            yield line.encode()

    assert next(format.parse(lines(), "qa1.txt")) == STORIES[0]
    assert read == LINES[:6]


@pytest.mark.parametrize(
    "lines",
    [
        [line + "\r\n" for line in LINES],
        [line + "  \n" for line in LINES],
        ["\ufeff" + LINES[0], *LINES[1:]],
        [*LINES, "", "  ", "\n"],
    ],
    ids=["crlf", "trailing blanks", "byte order mark", "blank lines at the end"],
)
def test_tolerates(lines):
    assert parse(lines) == STORIES


@pytest.mark.parametrize(
    ("lines", "number", "wrong"),
    [
        (["Mary moved."], 1, "no id"),
        (["1"], 1, "no id"),
        (["1 Mary moved.", "x John moved."], 2, "no id"),
        (["-1 Mary moved."], 1, "no id"),
        (["9" * 5000 + " Mary moved."], 1, "no id"),
        (["2 Mary moved."], 1, "id 2 out of order; expected 1;"),
        (["0 Mary moved."], 1, "id 0 out of order"),
        (["1 Mary moved.", "3 John moved."], 2, "id 3 out of order; expected 2, or 1 for a new story"),
        (["1 Mary moved.", "2 John moved.", "2 John moved."], 3, "id 2 out of order"),
        (["1 Mary moved.", "2 Where is Mary?"], 2, "no tab after the question"),
        (["1 Mary moved.", "2 Where is Mary? here 1"], 2, "no tab after the question"),
        (["1 Mary moved.", "2 Where is Mary?\t\t1"], 2, "nothing after the question"),
        (["1 Mary moved.", "2 \there\t1"], 2, "no id and text"),
        (["1 Mary moved.", "2 Where is Mary?\there"], 2, "without supporting"),
        (["1 Mary moved.", "2 Where is Mary?\there\t1\t1"], 2, "4 fields"),
        (["1 Mary moved.", "2 Where is Mary?\there\tone"], 2, "'one' is not the number of a line"),
        (["1 Mary moved.", "2 Where is Mary?\there\t²"], 2, "'²' is not the number"),
        (["1 Mary moved.", "2 Where is Mary?\there\t1,1"], 2, "'1,1' is not the number"),
        (["1 Mary moved.", "2 Where is Mary?\there\t0"], 2, "'0' is not the number"),
        (["1 Mary moved.", "2 Where is Mary?\there\t2"], 2, "'2' is of this line or a later one"),
        (["1 Mary moved.", "2 Where is Mary?\there\t3", "3 She left."], 2, "'3' is of this line or a later one"),
        ([*LINES[:3], "4 Where is Mary?\tbathroom\t3"], 4, "'3' is of a question"),
        (["1 Mary moved.", "", "2 John moved."], 2, "blank line"),
        (["1 Mary moved.", b"2 Where is \xff?\there\t1"], 2, "byte 12 of the line is not UTF-8"),
        ([*LINES, "1 Mary\x00moved."], 8, "the character U+0000"),
        ([LINES[0] + "\x1f"], 1, "the character U+001F"),
        (["1 Mary moved.", "2 Where is Mary?\there\x7f\t1"], 2, "the character U+007F"),
        (["1 Mary moved.", "2 Where is Mary?\there\t1\x1c"], 2, "the character U+001C"),
        (["1 Mary moved.\r2 Where is Mary?\there\t1"], 1, "the character U+000D"),
        (["1 Mary moved.", "\ufeff2 Where is Mary?\there\t1"], 2, "the character U+FEFF"),
        (["1 Mary\u2028moved."], 1, "the character U+2028"),
        (["1 Mary\x85moved."], 1, "the character U+0085"),
        (["1 M\ufffdry moved."], 1, "the character U+FFFD"),
        (LINES[:1], 1, "the story ends here without a question"),
        (LINES[:4], 4, "the story ends here without a question"),
        ([*LINES[:4], *LINES[5:]], 4, "the story ends here without a question"),
        ([*LINES[:2], "", "\n"], 2, "the story ends here without a question"),
    ],
)
def test_malformed_line(lines, number, wrong):
    with pytest.raises(RequestError) as error:
        parse(lines)
    message = str(error.value)
    assert message.startswith(f"qa1.txt:{number}: ")
    assert wrong in message
    assert "; " in message
    assert "\n" not in message
    assert len(message) < 250


@pytest.mark.parametrize("lines", [[], ["", ""], ["\ufeff"]])
def test_nothing_to_ask(lines):
    with pytest.raises(RequestError, match=r"^qa1\.txt: is empty; "):
        parse(lines)


def test_what_was_read_before_a_damaged_line_is_not_lost():
    stories = format.parse([*(line.encode() for line in LINES), b"9 Who?"], "qa1.txt")
    assert next(stories) == STORIES[0]
    with pytest.raises(RequestError, match=r"qa1\.txt:8: "):
        next(stories)


_WORDS = st.text(st.characters(categories=["L", "N", "P"], exclude_characters="?\ufeff"), min_size=1, max_size=6)
_SENTENCES = st.lists(_WORDS, min_size=1, max_size=4).map(" ".join)


@st.composite
def stories(draw):
    lines = [draw(_SENTENCES)]
    for _ in range(draw(st.integers(0, 6))):
        statements = [i for i, line in enumerate(lines, 1) if isinstance(line, str)]
        if draw(st.booleans()):
            support = tuple(draw(st.lists(st.sampled_from(statements), min_size=1, max_size=3)))
            lines.append(Question(draw(_SENTENCES) + "?", draw(_SENTENCES), support))
        else:
            lines.append(draw(_SENTENCES))
    return Story((*lines, Question("Is it?", "yes", (1,))))


@hypothesis.settings(max_examples=100)
@hypothesis.given(st.lists(stories(), min_size=1, max_size=4))
def test_parsing_what_is_written_gives_the_same(told):
    assert list(format.parse((line.encode() for line in format.write(told)), "x")) == told


@hypothesis.settings(max_examples=100)
@hypothesis.given(st.binary(max_size=200))
def test_damaged_bytes_are_read_or_refused_in_one_line(data):
    valid = "".join(format.write(STORIES)).encode()
    cut = len(data) * 7 % len(valid)
    try:
        list(format.parse((valid[:cut] + data + valid[cut:]).split(b"\n"), "x.txt"))
    except RequestError as error:
        assert str(error).startswith("x.txt:")
        assert "\n" not in str(error)


@hypothesis.settings(max_examples=100)
@hypothesis.given(stories(), st.randoms())
def test_a_story_that_asks_less_keeps_its_facts(told, rng):
    kept = {question for question in told.questions() if rng.random() < 0.5}
    asking = told.asking(lambda question: question in kept)
    facts = [(question.text, [said[i] for i in question.support]) for question, said in asking.asked()]
    wanted = [(q.text, [said[i] for i in q.support]) for q, said in told.asked() if q in kept]
    assert facts == wanted
    assert not asking.lines or not isinstance(asking.lines[-1], str)
