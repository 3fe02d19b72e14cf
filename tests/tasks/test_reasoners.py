"""The reasoners, on stories written by hand and on the released files."""

import re

import pytest

from cd_jax.tasks.babi.reasoners import REASONERS, answer
from originals import BABI_DIR, needs_babi

# Each story is written with a `/` between its statements.
ANSWERED = [
    (1, "Ada went to the wine cellar. / Zoë moved to the loft. / Ada went back to the loft.", "Where is Ada?", "loft"),
    (1, "Jean-Luc travelled to the office. / Bo journeyed to the attic.", "Where is Jean-Luc?", "office"),
    (2, "Ada got the box of chocolates there. / Ada went to the loft.", "Where is the box of chocolates?", "loft"),
    (
        2,
        "Ada went to the loft. / Ada took the key. / Ada dropped the key there. / Ada moved to the attic.",
        "Where is the key?",
        "loft",
    ),
    # Who finds a thing is where it was left.
    (
        2,
        "Ada went to the loft. / Ada took the key. / Ada left the key. / Bo got the key. / Bo picked up the pen.",
        "Where is the pen?",
        "loft",
    ),
    (
        3,
        "Ada went to the loft. / Ada took the key. / Ada moved to the attic. / Bo went to the loft. / "
        "Ada put down the key. / Bo moved to the attic. / Bo grabbed the key there. / Bo went to the barn.",
        "Where was the key before the barn?",
        "attic",
    ),
    # The last of several arrivals counts, and staying in a place is no arrival.
    (
        3,
        "Ada took the key there. / Ada went to the loft. / Ada went to the barn. / Ada moved to the attic. / "
        "Ada travelled to the barn. / Ada went back to the barn.",
        "Where was the key before the barn?",
        "attic",
    ),
    (
        4,
        "The loft is north of the barn. / The attic is south of the barn.",
        "What is the loft north of?",
        "barn",
    ),
    (
        4,
        "The loft is north of the wine cellar. / The barn is east of the loft. / The shed is south of the wine cellar.",
        "What is north of the wine cellar?",
        "loft",
    ),
    (4, "The loft is west of the barn. / The loft is north of the shed.", "What is east of the loft?", "barn"),
    (5, "Ada took the key. / Ada gave the key to Bo. / Bo passed the key to Cy.", "Who gave the key?", "Bo"),
    (5, "Ada took the key. / Ada gave the key to Bo. / Bo passed the key to Cy.", "Who received the key?", "Cy"),
    (5, "Ada took the key. / Ada gave the key to Bo. / Bo passed the key to Cy.", "Who gave the key to Bo?", "Ada"),
    (
        5,
        "Ada took the tin of tea. / Ada handed the tin of tea to Bo. / Bo got the pen.",
        "What did Ada give to Bo?",
        "tin of tea",
    ),
    (
        5,
        "Ada took the key. / Ada gave the key to Bo. / Bo passed the key to Ada. / Ada handed the key to Cy.",
        "Who did Ada give the key to?",
        "Cy",
    ),
    (6, "Ada went to the loft. / Ada got the key there. / Bo moved to the barn.", "Is Ada in the loft?", "yes"),
    (6, "Ada went to the loft. / Ada got the key there. / Ada moved to the barn.", "Is Ada in the loft?", "no"),
    (
        7,
        "Ada got the key. / Ada took the pen. / Bo took the cup. / Bo gave the cup to Ada. / Ada dropped the pen.",
        "How many objects is Ada carrying?",
        "two",
    ),
    (7, "Ada got the key.", "How many objects is Bo carrying?", "none"),
    (
        7,
        " / ".join(f"Ada took the {thing}." for thing in ("key", "pen", "cup", "hat")),
        "How many objects is Ada carrying?",
        "four",
    ),
    # What was put down and taken again keeps its rank.
    (
        8,
        "Ada took the pen. / Ada took the key. / Ada left the pen. / Bo got the cup. / Ada got the pen there.",
        "What is Ada carrying?",
        "pen,key",
    ),
    # And that somebody else had it before does not matter.
    (
        8,
        "Bo took the pen. / Bo left the pen. / Ada took the key. / Ada took the pen.",
        "What is Ada carrying?",
        "key,pen",
    ),
    (8, "Ada took the pen. / Ada discarded the pen.", "What is Ada carrying?", "nothing"),
    (9, "Ada is in the loft. / Ada is no longer in the loft.", "Is Ada in the loft?", "no"),
    (9, "Ada is not in the loft. / Bo is in the loft. / Ada went to the loft.", "Is Ada in the loft?", "yes"),
    (9, "Ada is in the loft. / Bo is not in the loft.", "Is Ada in the barn?", "no"),
    (10, "Ada is in the barn. / Ada is either in the loft or the wine cellar.", "Is Ada in the wine cellar?", "maybe"),
    (10, "Ada is in the barn. / Ada is either in the loft or the wine cellar.", "Is Ada in the barn?", "no"),
    (10, "Ada is either in the loft or the barn. / Ada moved to the loft.", "Is Ada in the loft?", "yes"),
    (
        11,
        "Ada went to the loft. / Then she moved to the barn. / After that she went to the shed. / Bo went to the loft.",
        "Where is Ada?",
        "shed",
    ),
    (12, "Ada and Bo went to the loft. / Ada and Cy moved to the barn.", "Where is Bo?", "loft"),
    (12, "Ada, Bo and Cy went to the loft.", "Where is Bo?", "loft"),
    (
        13,
        "Ada and Bo went to the loft. / Following that they moved to the barn. / Cy and Di went to the shed. / "
        "Afterwards they went to the loft. / Then they went to the attic.",
        "Where is Di?",
        "attic",
    ),
    (
        13,
        "Ada and Bo went to the loft. / Following that they moved to the barn. / Cy and Di went to the shed.",
        "Where is Bo?",
        "barn",
    ),
    (
        14,
        "Ada went to the loft this morning. / Bo went to the barn yesterday. / This afternoon Ada moved to the shed. / "
        "Yesterday Ada travelled to the wine cellar.",
        "Where was Ada before the loft?",
        "wine cellar",
    ),
    (
        14,
        "This evening Ada went to the loft. / Ada went to the loft this morning. / Ada moved to the barn yesterday. / "
        "This afternoon Ada went to the shed.",
        "Where was Ada before the loft?",
        "shed",
    ),
    (
        15,
        "Foxes are afraid of geese. / Ponies are afraid of foxes. / Geese are afraid of deer. / Ada is a fox. / "
        "Bo is a pony.",
        "What is ada afraid of?",
        "goose",
    ),
    (15, "Magpies are afraid of horses. / Ada is a magpie.", "What is ada afraid of?", "horse"),
    (
        16,
        "Ada is an otter. / Ada is brown. / Bo is an otter. / Cy is a toad. / Cy is green.",
        "What color is Bo?",
        "brown",
    ),
    # Conflicting evidence: neither the most, nor the colour said last, but the last of the species.
    (
        16,
        "Ada is an otter. / Bo is an otter. / Cy is an otter. / Di is an otter. / Cy is dark red. / Ada is brown. / "
        "Bo is brown. / El is a toad.",
        "What color is Di?",
        "dark red",
    ),
    (
        17,
        "The disc is above the star. / The dark cone is to the left of the disc. / The cube is above the dark cone.",
        "Is the cube above the star?",
        "yes",
    ),
    (
        17,
        "The disc is above the star. / The cone is to the left of the disc. / The cube is above the cone.",
        "Is the star to the left of the cube?",
        "no",
    ),
    (17, "The disc is above the star.", "Is the disc to the right of the star?", "no"),
    (
        18,
        "The cup fits inside the pot. / The tub is bigger than the pot. / The bag of nuts fits inside the cup. / "
        "The van is bigger than the tub. / The hat fits inside the van.",
        "Does the bag of nuts fit in the van?",
        "yes",
    ),
    (18, "The cup fits inside the pot. / The tub is bigger than the pot.", "Is the cup bigger than the tub?", "no"),
    (
        19,
        "The loft is north of the barn. / The shed is east of the loft. / The attic is east of the barn. / "
        "The yard is east of the shed. / The well is south of the yard. / The pond is west of the barn.",
        "How do you go from the pond to the well?",
        "e,n,e,e,s",
    ),
    # The shorter of two ways.
    (
        19,
        "The loft is north of the barn. / The shed is east of the loft. / The yard is south of the shed. / "
        "The yard is east of the barn.",
        "How do you go from the barn to the yard?",
        "e",
    ),
    (20, "Ada is thirsty. / Bo is tired.", "Where will ada go?", "kitchen"),
    # The story itself tells where people of this motive go.
    (20, "Bo is tired. / Bo went to the loft. / Ada is tired.", "Where will ada go?", "loft"),
    (
        20,
        "Ada is tired. / Ada went to the loft. / Ada took the box of pills there. / Bo is bored. / Ada is hungry.",
        "Why did ada get the box of pills?",
        "tired",
    ),
    (20, "Ada is hungry. / Ada moved to the loft. / Ada is bored.", "Why did ada go to the loft?", "hungry"),
]

# Of each task, a sentence that is none of its forms: in the story, and in the question.
MALFORMED = {
    1: ("Ada danced to the loft.", "Where was Ada?"),
    2: ("ada took the key there.", "Where is key?"),
    3: ("Ada took key there.", "Where was the key after the loft?"),
    4: ("The loft is above the barn.", "What is north of loft?"),
    5: ("Ada gave the key.", "Who stole the key?"),
    6: ("She went to the loft.", "Is Ada at the loft?"),
    7: ("Ada took the key and the pen.", "How many things is Ada carrying?"),
    8: ("Ada threw the key to Bo.", "What is Ada wearing?"),
    9: ("Ada is either in the loft or the barn.", "Is Ada in the loft"),
    10: ("Ada is not in the loft.", "Is Ada in loft?"),
    11: ("Then they went to the loft.", "Where is she?"),
    12: ("Ada went to the loft.", "Where is Ada and Bo?"),
    13: ("Then she went to the loft.", "Where are they?"),
    14: ("Ada went to the loft.", "Where was Ada after the loft?"),
    15: ("Foxes fear geese.", "What is ada scared of?"),
    16: ("Ada is in the loft.", "What colour is Ada?"),
    17: ("The disc is bigger than the star.", "Is the disc near the star?"),
    18: ("The disc is above the star.", "Does the cup fit inside the pot?"),
    19: ("The loft is up of the barn.", "How do you get from the loft to the barn?"),
    20: ("Ada gave the key to Bo.", "Why did ada sing?"),
}

UNDETERMINED = [
    (1, "Ada went to the loft.", "Where is Bo?", "does not tell where Bo is"),
    (2, "Ada took the key.", "Where is the key?", "does not tell where the key is"),
    (2, "Ada took the key. / Bo took the key.", "Where is the key?", "which Ada holds: 'Bo took the key.'"),
    (2, "Bo dropped the key.", "Where is the key?", "Bo does not hold the key: 'Bo dropped the key.'"),
    (
        2,
        "Ada went to the loft. / Ada took the key. / Ada left the key. / Bo went to the barn. / Bo took the key.",
        "Where is the key?",
        "Bo is in the barn, the key in the loft",
    ),
    (3, "Ada went to the loft. / Ada took the key.", "Where was the key before the loft?", "before the loft"),
    (4, "The loft is west of the barn.", "What is north of the barn?", "no answer"),
    (4, "The loft is north of the barn. / The shed is north of the barn.", "What is north of the barn?", "loft and sh"),
    (5, "Ada took the key. / Ada gave the key to Bo.", "What did Bo give to Ada?", "no such gift"),
    (7, " / ".join(f"Ada took the {n}." for n in range(13)), "How many objects is Ada carrying?", "13 things"),
    (9, "Ada is not in the loft.", "Is Ada in the barn?", "only that Ada is not in the loft"),
    (10, "Ada is in the loft.", "Is Bo in the loft?", "does not tell where Bo is"),
    (11, "Then she went to the loft.", "Where is Ada?", "whom 'she' could mean"),
    (
        11,
        "Bo went to the loft. / Then he went to the barn. / Bo went to the loft. / Then she went to the barn.",
        "Where is Bo?",
        "Bo was called 'he' before",
    ),
    (14, "Ada went to the loft yesterday.", "Where was Ada before the loft?", "before the loft"),
    (
        14,
        "Ada went to the loft yesterday. / Yesterday Ada went to the barn. / Ada went to the shed this morning.",
        "Where was Ada before the shed?",
        "to the loft and to the barn yesterday",
    ),
    (15, "Foxes are afraid of geese. / Ada is a goose.", "What is ada afraid of?", "no answer"),
    (
        15,
        "Foxes are afraid of geese. / Ada is a fox. / Foxes are afraid of deer.",
        "What is ada afraid of?",
        "deer and goo",
    ),
    (16, "Ada is a fox. / Bo is an otter. / Bo is brown.", "What color is Ada?", "no colour"),
    # Both are left of the disc: nothing tells which is farther.
    (
        17,
        "The cube is to the left of the disc. / The star is to the left of the disc.",
        "Is the cube to the left of the star?",
        "does not tell how the cube compares",
    ),
    (17, "The cube is above the disc. / The disc is above the cube.", "Is the cube above the disc?", "contradicts"),
    (18, "The cup fits inside the pot. / The hat fits inside the pot.", "Is the cup bigger than the hat?", "not tell"),
    (19, "The loft is north of the barn.", "How do you go from the loft to the shed?", "no shortest way"),
    (
        19,
        "The loft is north of the barn. / The shed is east of the loft. / The yard is south of the shed. / "
        "The yard is east of the barn.",
        "How do you go from the barn to the shed?",
        "more than one shortest way",
    ),
    (
        19,
        "The loft is north of the barn. / The loft is east of the barn.",
        "How do you go from the barn to the loft?",
        "loft is north of the barn, as was said before",
    ),
    (20, "Ada is cold.", "Where will ada go?", "Where will ada go"),
    (20, "Ada went to the loft. / Ada is bored.", "Why did ada go to the loft?", "Why did ada go"),
]

# Where the released files ask what somebody gave to somebody, and two things were given, they mean the latest gift in
# 22 of 26 questions. In these they mean an earlier one, though no gift comes between test:2061 and test:2064, of the
# same story, the same question with the other answer: the text cannot decide.
EXCEPTIONS = {
    "qa5_three-arg-relations_test.txt:2061": ("football", "apple"),
    "qa5_three-arg-relations_test.txt:5853": ("milk", "apple"),
    "qa5_three-arg-relations_train.txt:221": ("apple", "football"),
    "qa5_three-arg-relations_train.txt:224": ("apple", "football"),
}

# Other words for those of the files, of other shapes and plurals.
OTHERS = {
    "Mary": "Zoë", "John": "Jean-Luc", "Sandra": "Østen", "Daniel": "Wu", "Bill": "Kitchen", "Fred": "Anh",
    "Gertrude": "Noor", "gertrude": "noor", "Lily": "Thea", "Greg": "Isla", "Sumit": "Bo", "sumit": "bo",
    "bathroom": "wine cellar", "hallway": "hall of mirrors", "office": "Eiffel Tower", "park": "north-wing",
    "football": "box of old letters", "apple": "key", "wolf": "fox", "wolves": "foxes", "Wolves": "Foxes",
    "cat": "pony", "cats": "ponies", "Cats": "Ponies", "mouse": "goose", "mice": "geese", "Mice": "Geese",
    "sheep": "deer", "Sheep": "Deer", "swan": "otter", "green": "dark blue", "triangle": "five-pointed star",
    "chest": "tin of tea", "suitcase": "van", "pajamas": "woolly hat",
}  # fmt: skip


def lines(story: str) -> list[str]:
    return story.split(" / ")


def asked(path):
    """The line, the statements before it, the question and the answer, of each question of a file."""
    statements: list[str] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line_id, text = line.split(" ", 1)
        if line_id == "1":
            statements = []
        if "\t" in text:
            question, expected, _ = text.split("\t")
            yield f"{path.name}:{number}", tuple(statements), question.strip(), expected
        else:
            statements.append(text.strip())


def renamed(text: str) -> str:
    return re.sub(r"\w+", lambda word: OTHERS.get(word[0], word[0]), text)


def originals(number: int):
    paths = sorted((BABI_DIR / "en").glob(f"qa{number}_*.txt"))
    assert len(paths) == 2
    return [question for path in paths for question in asked(path)]


@pytest.mark.parametrize(("number", "story", "question", "expected"), ANSWERED)
def test_answers(number, story, question, expected):
    assert answer(number, lines(story), question) == expected


@pytest.mark.parametrize(("number", "story", "question", "message"), UNDETERMINED)
def test_says_what_the_text_leaves_open(number, story, question, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        answer(number, lines(story), question)


@pytest.mark.parametrize("number", REASONERS)
def test_names_the_sentence_that_it_cannot_read(number):
    _, story, question, _ = next(case for case in ANSWERED if case[0] == number)
    statement, other_question = MALFORMED[number]
    with pytest.raises(ValueError, match=re.escape(repr(statement))):
        answer(number, [*lines(story), statement], question)
    with pytest.raises(ValueError, match=re.escape(repr(other_question))):
        answer(number, lines(story), other_question)


def test_knows_twenty_tasks():
    assert list(REASONERS) == list(range(1, 21))
    with pytest.raises(ValueError, match="no task 21"):
        answer(21, [], "Where is Mary?")


@needs_babi
@pytest.mark.parametrize("number", range(1, 21))
def test_agrees_with_the_released_files(number):
    questions = originals(number)
    answers = [answer(number, statements, question) for _, statements, question, _ in questions]
    differing = {
        line: (expected, got) for (line, _, _, expected), got in zip(questions, answers, strict=True) if got != expected
    }
    assert len(questions) == 2000
    assert differing == {line: both for line, both in EXCEPTIONS.items() if line.startswith(f"qa{number}_")}


@needs_babi
@pytest.mark.parametrize("number", range(1, 21))
def test_words_do_not_matter(number):
    """In a released story with other words, the answer is the same but for these words."""
    changed = 0
    for _, statements, question, _ in originals(number)[::10]:
        got = answer(number, [renamed(statement) for statement in statements], renamed(question))
        assert got == renamed(answer(number, statements, question))
        changed += renamed(question) != question
    assert changed > 20
