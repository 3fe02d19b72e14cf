"""Whether statements entail an answer: on statements written by hand, and on the released supporting facts."""

import pytest
from test_reasoners import lines

from cd_jax.tasks.babi.reasoners import REASONERS, answer, entails
from originals import BABI_DIR, needs_babi

# Parts of stories, with a `/` between their statements.
ENTAILED = [
    (1, "Ada went to the loft.", "Where is Ada?", "loft"),
    # Who drops a thing had it, from the start where its taking is not told.
    (2, "Ada moved to the loft. / Ada dropped the key.", "Where is the key?", "loft"),
    (
        3,
        "Ada moved to the loft. / Ada moved to the barn. / Ada dropped the key.",
        "Where was the key before the barn?",
        "loft",
    ),
    # That Ada left the key is missing, and so is that Bo came to it.
    (2, "Ada took the key. / Bo took the key. / Bo went to the loft.", "Where is the key?", "loft"),
    (
        2,
        "Ada went to the loft. / Ada left the key. / Bo went to the barn. / Bo took the key. / Bo went to the shed.",
        "Where is the key?",
        "shed",
    ),
    (2, "Ada went to the loft. / Bo took the key. / Ada left the key.", "Where is the key?", "loft"),
    (5, "Ada gave the key to Bo.", "Who received the key?", "Bo"),
    (6, "Ada went to the loft.", "Is Ada in the barn?", "no"),
    (7, "Ada dropped the key.", "How many objects is Ada carrying?", "none"),
    (7, "Ada gave Bo the key.", "How many objects is Ada holding?", "zero"),
    (7, "Ada gave Bo the key.", "How many objects is Bo holding?", "one"),
    (8, "Ada gave the key to Bo.", "What is Ada carrying?", "nothing"),
    (9, "Ada is no longer in the loft.", "Is Ada in the loft?", "no"),
    (10, "Ada is either in the loft or the barn.", "Is Ada in the loft?", "maybe"),
    (10, "Ada is either in the loft or in the barn.", "Is Ada in the shed?", "no"),
    (17, "The disc is above the star.", "Is the disc below the star?", "no"),
    # The question tells the deed.
    (20, "Ada is bored.", "Why did ada go to the garden?", "bored"),
]

LEFT_OPEN = [
    (1, "Ada went to the loft.", "Where is Ada?", "barn"),
    (1, "Bo went to the loft.", "Where is Ada?", "loft"),
    # Nothing tells where it was dropped, taken or found.
    (2, "Ada took the key.", "Where is the key?", "loft"),
    (2, "Ada dropped the key. / Ada went to the loft.", "Where is the key?", "loft"),
    (
        2,
        "Ada went to the loft. / Ada left the key. / Bo went to the barn. / Bo took the key.",
        "Where is the key?",
        "barn",
    ),
    (
        2,
        "Ada went to the loft. / Ada left the key. / Bo took the key. / Bo left the key. / Cy left the key.",
        "Where is the key?",
        "loft",
    ),
    (
        3,
        "Ada went to the loft. / Ada took the key. / Ada went to the barn.",
        "Where was the key before the loft?",
        "barn",
    ),
    (
        3,
        "Ada went to the loft. / Ada went to the barn. / Ada took the key.",
        "Where was the key before the barn?",
        "loft",
    ),
    (6, "Bo went to the loft.", "Is Ada in the barn?", "no"),
    (6, "Ada took the key.", "Is Ada in the barn?", "no"),
    (7, "Ada went to the loft. / Bo dropped the key.", "How many objects is Ada carrying?", "none"),
    (7, "Ada dropped the key.", "How many objects is Ada carrying?", "zero"),
    (7, "Ada dropped the key.", "How many objects is Ada holding?", "none"),
    (8, "Ada went to the loft. / Bo dropped the key.", "What is Ada carrying?", "nothing"),
    (9, "Ada is not in the loft.", "Is Ada in the barn?", "no"),
    (10, "Bo is either in the loft or the barn.", "Is Ada in the loft?", "maybe"),
    (11, "Then she went to the loft.", "Where is Ada?", "loft"),
    (14, "Ada went to the loft yesterday.", "Where was Ada before the loft?", "barn"),
    (16, "Ada is an otter. / Bo is a toad. / Bo is green.", "What color is Ada?", "green"),
    (17, "The disc is above the star.", "Is the disc below the cone?", "no"),
    (18, "The pot is bigger than the cup.", "Is the pot bigger than the tub?", "no"),
    # Told is that she went before she was bored.
    (20, "Ada went to the garden. / Ada is bored.", "Why did ada go to the garden?", "bored"),
    (20, "Bo is bored.", "Where will ada go?", "garden"),
    # These are no sentences of the task.
    (1, "Ada danced to the loft.", "Where is Ada?", "loft"),
    (1, "Ada went to the loft.", "Is Ada in the loft?", "yes"),
]

# What one would answer who takes what is not told for not so.
DEFAULTS = ("yes", "no", "maybe", "none", "zero", "nothing", "one")


def supported(number: int):
    """Each question's statements by their lines, its text, its answer, and the lines of its supporting facts."""
    for path in sorted((BABI_DIR / "en").glob(f"qa{number}_*.txt")):
        statements: dict[int, str] = {}
        for line in path.read_text().splitlines():
            line_id, text = line.split(" ", 1)
            if line_id == "1":
                statements = {}
            if "\t" in text:
                question, expected, support = text.split("\t")
                yield dict(statements), question.strip(), expected, sorted(int(of) for of in set(support.split()))
            else:
                statements[int(line_id)] = text.strip()


@pytest.mark.parametrize(("number", "story", "question", "expected"), ENTAILED)
def test_entailed(number, story, question, expected):
    assert entails(number, lines(story), question, expected)


@pytest.mark.parametrize(("number", "story", "question", "expected"), LEFT_OPEN)
def test_left_open(number, story, question, expected):
    assert not entails(number, lines(story), question, expected)


def test_there_are_twenty_tasks():
    with pytest.raises(ValueError, match="no task 21"):
        entails(21, [], "Where is Ada?", "loft")


@needs_babi
@pytest.mark.parametrize("number", REASONERS)
def test_released_supporting_facts_entail_the_answer(number):
    failing = [
        (question, expected)
        for statements, question, expected, support in supported(number)
        if not entails(number, [statements[line] for line in support], question, expected)
    ]
    assert failing == []


@needs_babi
@pytest.mark.parametrize("number", REASONERS)
def test_nothing_entails_nothing(number):
    for _, question, expected, _ in supported(number):
        assert not any(entails(number, [], question, default) for default in {expected, *DEFAULTS})


@needs_babi
@pytest.mark.parametrize("number", [6, 7, 8, 9, 10])
def test_statements_about_others_entail_nothing(number):
    """Without those that name whom the question is about, the others of the story leave each answer open."""
    for statements, question, expected, _ in supported(number):
        who = next(word for word in question.rstrip("?").split()[1:] if word[0].isupper())
        others = [statement for statement in statements.values() if who not in statement]
        assert not any(entails(number, others, question, default) for default in {expected, *DEFAULTS})


@needs_babi
@pytest.mark.parametrize("number", REASONERS)
def test_of_a_whole_story_it_is_the_answer(number):
    for statements, question, _, _ in list(supported(number))[::10]:
        assert entails(number, list(statements.values()), question, answer(number, list(statements.values()), question))
