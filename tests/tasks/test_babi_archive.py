"""The original bAbI archive: its files, its layouts, its splits."""

import collections

import pytest

from cd_jax.errors import RequestError
from cd_jax.tasks.babi import archive, format
from originals import BABI_DIR, needs_babi

# The authors held out a tenth of the stories, not of the questions: these tasks have long stories.
HELD_OUT = {17: 96, 18: 95, 20: 96}


def story(first="1 Mary is here.", last="2 Where is Mary?\there\t1", repeat=1):
    return "\n".join([first, last] * repeat) + "\n"


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def assert_one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("stories", "held_out"), [(2, 1), (10, 1), (25, 2)], ids=["two stories", "ten stories", "25 stories"]
)
def test_holds_out_whole_stories(tmp_path, stories, held_out):
    text = story(last="2 Where is Mary?\there\t1\n3 Who is here?\tMary\t1", repeat=stories)
    write(tmp_path, **{"qa1_single-supporting-fact_train": text, "qa1_single-supporting-fact_test": story()})
    train = archive.read(tmp_path, 1, "train", "t")
    validation = archive.read(tmp_path, 1, "validation", "t")
    assert (len(train), len(validation)) == (2 * (stories - held_out), 2 * held_out)
    assert [e.example_id for e in validation] == [f"t/validation/{i}" for i in range(2 * held_out)]
    assert len(archive.read(tmp_path, 1, "test", "t")) == 1


def test_one_story_cannot_be_split(tmp_path):
    with pytest.raises(RequestError) as error:
        archive.read(write(tmp_path, qa1_train=story()), 1, "train", "t")
    assert_one_line(error, "qa1_train.txt", "one story")


def found(folder):
    return archive.find_file(archive.find_folder(folder), 1, "validation").name


def test_prefers_the_authors_split(tmp_path):
    write(tmp_path / "tasks_1-20_v1-2" / "en", **{"qa1_single-supporting-fact_train": story(repeat=3)})
    assert found(tmp_path) == "qa1_single-supporting-fact_train.txt"
    write(tmp_path / "tasks_1-20_v1-2" / "en-valid", qa1_train=story(repeat=5), qa1_valid=story(repeat=4))
    for folder in (tmp_path, tmp_path / "tasks_1-20_v1-2", tmp_path / "tasks_1-20_v1-2" / "en-valid"):
        assert found(folder) == "qa1_valid.txt"
        assert len(archive.read(folder, 1, "train", "t")) == 5
        assert len(archive.read(folder, 1, "validation", "t")) == 4


def test_a_changed_file_is_read_afresh(tmp_path):
    write(tmp_path, qa1_test=story())
    assert archive.read(tmp_path, 1, "test", "t")[0].answer == "here"
    write(tmp_path, qa1_test=story(last="2 Where is Mary?\tgone\t1"))
    assert archive.read(tmp_path, 1, "test", "t")[0].answer == "gone"


def test_missing_folder(tmp_path):
    with pytest.raises(RequestError) as error:
        archive.read(tmp_path / "nowhere", 1, "train", "t")
    assert_one_line(error, "nowhere", "no such folder", "--babi_dir")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_missing_file(tmp_path, split):
    # Another task's validation file: this is a folder with the authors' split, of which a file is lost.
    write(tmp_path, qa2_valid=story())
    with pytest.raises(RequestError) as error:
        archive.read(tmp_path, 1, split, "t")
    assert_one_line(error, str(tmp_path), f"qa1_{split[:5]}", "single-supporting-fact", "--babi_dir")


@pytest.mark.parametrize(("number", "split", "wrong"), [(0, "train", "no task 0"), (1, "dev", "no split 'dev'")])
def test_no_such_task_or_split(tmp_path, number, split, wrong):
    with pytest.raises(RequestError) as error:
        archive.read(tmp_path, number, split, "t")
    assert_one_line(error, wrong, "choose one of")


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (b"", ["is empty"]),
        (b"1 A.\n", [".txt:1: the story ends here without a question"]),
        (b"1 A.\n2 A?\ta\t1", [".txt:2: the last line has no end", "end it with a newline"]),
        (b"1 A.\n2 B\xff.\n", [".txt:2: ", "UTF-8"]),
        (b"1 A.\n3 B.\n", [".txt:2: id 3"]),
    ],
    ids=["empty", "no question", "no end", "not UTF-8", "malformed"],
)
def test_damaged_file(tmp_path, data, parts):
    (tmp_path / "qa1_test.txt").write_bytes(data)
    with pytest.raises(RequestError) as error:
        archive.read(tmp_path, 1, "test", "t")
    assert_one_line(error, str(tmp_path / "qa1_test.txt"), *parts)


def test_a_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "qa1_test.txt").mkdir()
    with pytest.raises(RequestError) as error:
        archive.read(tmp_path, 1, "test", "t")
    assert_one_line(error, "cannot be read", "--babi_dir")


@needs_babi
@pytest.mark.parametrize("number", list(archive.TASK_NAMES))
def test_original_counts(number):
    splits = {split: archive.read(BABI_DIR, number, split, "t") for split in ("train", "validation", "test")}
    held_out = HELD_OUT.get(number, 100)
    assert {split: len(examples) for split, examples in splits.items()} == {
        "train": 1000 - held_out,
        "validation": held_out,
        "test": 1000,
    }
    for example in (e for examples in splits.values() for e in examples):
        assert example.question.endswith("?")
        assert example.answer
        assert example.supporting_facts
        assert all(fact in example.context for fact in example.supporting_facts)
        assert "\t" not in example.prompt


def bare(examples):
    return collections.Counter((e.context, e.question, e.answer, e.supporting_facts) for e in examples)


@needs_babi
@pytest.mark.parametrize("number", list(archive.TASK_NAMES))
def test_en_agrees_with_en_valid(number):
    en, en_valid = (
        {split: archive.read(BABI_DIR / folder, number, split, "t") for split in ("train", "validation", "test")}
        for folder in ("en", "en-valid")
    )
    assert en["test"] == en_valid["test"]
    # The authors drew their validation stories at random, ours are the last: as many, but others.
    assert bare(en["train"] + en["validation"]) == bare(en_valid["train"] + en_valid["validation"])
    # Stories of tasks 18 and 20 differ in their number of questions.
    assert abs(len(en["validation"]) - len(en_valid["validation"])) <= 10


@needs_babi
def test_original_lists_and_paths():
    assert "football,milk" in {e.answer for e in archive.read(BABI_DIR, 8, "train", "t")}
    assert archive.read(BABI_DIR.parent, 19, "train", "t")[0].answer == "s,e"


@pytest.mark.parametrize("layout", archive.LAYOUTS)
def test_every_layout_under_its_name(tmp_path, layout):
    for name, answer in (("en-valid", "english"), (layout, "asked for")):
        write(tmp_path / name, qa1_test=story(last=f"2 Where is Mary?\t{answer}\t1"))
    assert archive.read(tmp_path, 1, "test", "t", layout)[0].answer == "asked for"
    # Its own folder serves too, and no other.
    assert archive.read(tmp_path / layout, 1, "test", "t", layout)[0].answer == "asked for"
    assert archive.read(tmp_path / layout, 1, "test", "t")[0].answer == "asked for"


def test_a_layout_that_is_not_there(tmp_path):
    write(tmp_path / "en", qa1_test=story())
    for layout, parts in (("hn", ["has no folder hn", "--babi_dir"]), ("de", ["no layout 'de'", "en-valid, en,"])):
        with pytest.raises(RequestError) as error:
            archive.read(tmp_path, 1, "test", "t", layout)
        assert_one_line(error, *parts)


@needs_babi
@pytest.mark.parametrize("folder", ["en", "en-valid"])
def test_written_again_the_original_files_are_the_same(folder):
    paths = sorted((BABI_DIR / folder).glob("qa*.txt"))
    assert len(paths) == (40 if folder == "en" else 60)
    for path in paths:
        original = [line.rstrip() for line in path.read_bytes().decode().splitlines()]
        with path.open("rb") as file:
            again = "".join(format.write(format.parse(file, path.name))).splitlines()
        # Some of the files lack the blank before the tab.
        assert [line.replace(" \t", "\t") for line in again] == [line.replace(" \t", "\t") for line in original]
