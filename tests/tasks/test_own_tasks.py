"""Tasks, explanations, teachers and verifiers of the user's own, from outside of the package."""

import json
import sys

import pytest
import runs
import seqio
import tensorflow as tf

from cd_jax import tasks
from cd_jax.errors import RequestError
from cd_jax.feed.lessons import explained
from cd_jax.feed.tokens import tokenised
from cd_jax.learning import compose
from cd_jax.learning.agent import Agent
from cd_jax.tasks import Catalogue
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.types import Example
from cd_jax.update.policies.explanations import Explanations
from cd_jax.update.teachers.oracle import OracleTeacher

# What the user writes: a task of SeqIO's without a test split and with a vocabulary of its own, a teacher, a verifier.
MODULE = """
import gin
import seqio
import tensorflow as tf
from cd_jax.update.teachers.teacher import Explanation

ROWS = [(f"Is {n} even?", "yes" if n % 2 == 0 else "no") for n in range(16)]

def read(split, shuffle_files=False, seed=None):
    inputs, targets = zip(*(ROWS[:12] if split == "train" else ROWS[12:]))
    return tf.data.Dataset.from_tensor_slices({"inputs": list(inputs), "targets": list(targets)})

seqio.TaskRegistry.add(
    "my_parity",
    source=seqio.FunctionDataSource(read, splits=["train", "validation"]),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features={name: seqio.Feature(seqio.ByteVocabulary()) for name in ("inputs", "targets")},
    metric_fns=[],
)

@gin.configurable
class MyTeacher:
    name = "mine"

    def explain(self, example, attempt, num_updates, seed):
        return [Explanation(f"I say {example.answer}.", "rule")]

@gin.configurable
class MyVerifier:
    name = "mine"

    def __call__(self, predictions, expected):
        return [0.25 for _ in predictions]
"""


def write_jsonl(folder, count: int = 6):
    """A folder of the user's: a text explains the even rows, two the odd ones."""
    folder.mkdir()
    for split in ("train", "validation", "test"):
        lines = [
            {"prompt": f"{split} {i}: Ann has {i} figs. Who has figs?", "answer": "Ann", "explanation": said}
            for i in range(count)
            for said in [f"Ann has {i}" if i % 2 == 0 else [f"Ann has {i}", "nobody else has any"]]
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def modules(tmp_path):
    """A working folder with the user's module."""
    (tmp_path / "my_things.py").write_text(MODULE)
    return tmp_path


@pytest.fixture(autouse=True)
def forgotten():
    """Whatever a test registers is gone after it."""
    before = set(seqio.TaskRegistry.names()) | set(seqio.MixtureRegistry.names())
    yield
    for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
        for name in set(registry.names()) - before:
            registry.remove(name)
    tasks.register()


def user(given, folder, environment):
    """`cd_jax` in the user's working folder, as the command that is installed beside Python: what it printed."""
    import pathlib
    import subprocess

    command = [str(pathlib.Path(sys.executable).with_name("cd_jax")), *given]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def small(**more) -> list[str]:
    given = {name: value for name, value in runs.BINDINGS.items() if name != "SOURCE"} | {"TRAIN_STEPS": 4} | more
    return [f"--gin.{name}={value}" for name, value in given.items()]


@pytest.mark.slow
def test_a_source_of_json_lines_a_target_of_seqio_and_a_verifier(modules, user_environment):
    write_jsonl(modules / "figs")
    mine = ["--task_jsonl=figs=figs", "--gin.SOURCE='figs'", "--model_dir=run"]
    user(["distill", *mine], modules, user_environment)
    updates = [json.loads(line) for line in (modules / "run" / "updates.jsonl").read_text().splitlines()]
    assert [update["update"] for update in updates if update["example_id"] == "figs/train/2"] == ["Ann has 2"]
    assert {update["update"] for update in updates if update["example_id"] == "figs/train/3"} == {
        "Ann has 3", "nobody else has any",
    }  # fmt: skip
    theirs = ["--module_import=my_things", "--gin.Agent.verifier=@MyVerifier"]
    user(["train", *mine, *theirs, *small(AGENT="'cd_memory'")], modules, user_environment)
    evaluation = ["--gin.TARGETS=['my_parity']", "--gin.evaluate.split='validation'"]
    # Where JSON lines are, the run knows; code must be named again.
    user(["eval", "--model_dir=run", "--module_import=my_things", *evaluation], modules, user_environment)
    [done] = json.loads((modules / "run" / "results.json").read_text())["runs"]
    assert (done["source"]["task"], done["source"]["n"]) == ("figs", 6)
    assert [(target["task"], target["n"]) for target in done["targets"]] == [("my_parity", 4)]
    [file] = (modules / "run" / "inference").glob("my_parity*.jsonl")
    attempts = [json.loads(line) for line in file.read_text().splitlines()]
    assert [attempt["prompt"] for attempt in attempts] == [f"Is {n} even?" for n in range(12, 16)]
    assert [attempt["answer"] for attempt in attempts] == ["yes", "no", "yes", "no"]
    assert {attempt["score"] for attempt in attempts} == {0.25}


def test_a_teacher(modules, user_environment):
    given = ["--module_import=my_things", "--gin.SOURCE='my_parity'", "--gin.distill.teacher=@MyTeacher"]
    user(["distill", *given, "--model_dir=run"], modules, user_environment)
    updates = [json.loads(line) for line in (modules / "run" / "updates.jsonl").read_text().splitlines()]
    assert [update["update"] for update in updates] == [f"I say {'no' if n % 2 else 'yes'}." for n in range(12)]
    assert {update["teacher"] for update in updates} == {"mine"}
    assert "my_parity" in user(["tasks", "--module_import=my_things"], modules, user_environment)


# Reading


def add_task(name, rows, vocabulary=None, **features):
    vocabulary = vocabulary or seqio.ByteVocabulary()
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files=False, seed=None: tf.data.Dataset.from_tensor_slices(rows),
            splits=["train", "test"],
        ),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={
            name: seqio.Feature(vocabulary) for name in ("inputs", "targets", *features) if name in rows
        },
        metric_fns=[],
    )  # fmt: skip


def test_a_task_of_seqio_is_read_as_texts_and_tokenised_with_our_vocabulary():
    add_task("mine", {"inputs": ["Who?", "Wer?"], "targets": ["Ann", "because she is Bea answer: Bea"]})
    first, second = Catalogue().examples("mine", "train")
    assert first == Example("mine/train/0", "mine", "Who?", "", "Ann")
    assert (second.prompt, second.answer, second.explanations) == ("Wer?", "Bea", ("because she is Bea",))
    vocabulary = vocabularies.load()
    read = tokenised(Catalogue(), vocabulary, "mine", "train")
    assert read.inputs.to_list()[0] == [*vocabulary.encode("Who?"), vocabulary.eos_id]
    assert read.targets.to_list()[1] == [*vocabulary.encode("answer: Bea"), vocabulary.eos_id]
    assert Catalogue().splits("mine") == ["train", "test"]
    # SeqIO's registry keeps what the user gave it.
    assert isinstance(seqio.TaskRegistry.get("mine").output_features["inputs"].vocabulary, seqio.ByteVocabulary)


@pytest.mark.parametrize("feature", ["explanation", "update"])
def test_explanations_of_a_task_of_seqio(feature):
    add_task("mine", {"inputs": ["a"], "targets": ["b"], feature: [["so it  is", "so\nit is", "it is"]]})
    [example] = Catalogue().examples("mine", "train")
    assert example.explanations == ("so it is", "it is")
    said = OracleTeacher().explain(example, "answer: wrong", 3, seed=0)
    assert {explanation.text for explanation in said} == {"so it is", "it is"}
    assert len(OracleTeacher().explain(example, None, 1, seed=0)) == 1


def test_tokens_alone_are_decoded():
    bytes_ = seqio.ByteVocabulary()
    row = {name: tf.constant(bytes_.encode(text), tf.int32) for name, text in (("inputs", "a?"), ("targets", "b"))}
    seqio.TaskRegistry.add(
        "tokens",
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files=False, seed=None: tf.data.Dataset.from_tensors(row),
            splits=["train"],
        ),
        preprocessors=[],
        output_features={name: seqio.Feature(bytes_, add_eos=False) for name in ("inputs", "targets")},
        metric_fns=[],
    )  # fmt: skip
    [example] = Catalogue().examples("tokens", "train")
    assert (example.prompt, example.answer) == ("a?", "b")


def test_a_mixture_of_seqio():
    add_task("mine", {"inputs": ["a"], "targets": ["b"]})
    seqio.MixtureRegistry.add("both", ["mine", "babi_qa1"], default_rate=1.0)
    catalogue = Catalogue()
    assert sorted(catalogue.subtasks("both")) == ["babi_qa1", "mine"]
    assert catalogue.splits("both") == ["train", "test"]
    assert len(catalogue.examples("both", "train")) == 1 + len(catalogue.examples("babi_qa1", "train"))


def test_what_is_the_users_stays_when_ours_is_registered_anew():
    add_task("mine", {"inputs": ["a"], "targets": ["b"]})
    seqio.MixtureRegistry.add("both", ["mine", "babi_qa1"], default_rate=1.0)
    theirs = seqio.TaskRegistry.get("mine"), seqio.MixtureRegistry.get("both")
    ours = seqio.TaskRegistry.get("babi_qa1")
    catalogue = Catalogue()
    for _ in range(2):
        catalogue.register()
    assert (seqio.TaskRegistry.get("mine"), seqio.MixtureRegistry.get("both")) == theirs
    assert seqio.TaskRegistry.get("babi_qa1") is not ours


def test_a_catalogue_stays_as_it_was_made():
    catalogue = Catalogue()
    names = catalogue.names()
    add_task("mine", {"inputs": ["a"], "targets": ["b"]})
    catalogue.names()["babi_all"].append("mine")
    catalogue.subtasks("babi_all").append("mine")
    assert catalogue.names() == names
    assert Catalogue().names() == names | {"mine": ["mine"]}


def test_what_cannot_be_read_is_said_in_one_line():
    add_task("mine", {"inputs": ["a"], "targets": ["b"]})
    with pytest.raises(RequestError, match=r"mine has no split 'validation', but train, test; .*'validation'"):
        Catalogue().examples("mine", "validation")
    seqio.TaskRegistry.add(
        "broken",
        source=seqio.FunctionDataSource(lambda split, shuffle_files=False, seed=None: 1 / 0, splits=["train"]),
        preprocessors=[],
        output_features={"inputs": seqio.Feature(seqio.ByteVocabulary())},
        metric_fns=[],
    )
    with pytest.raises(RequestError, match=r"broken: SeqIO cannot read its split 'train' \(.*division by zero"):
        Catalogue().examples("broken", "train")
    with pytest.raises(RequestError, match="--module_import and --task_jsonl"):
        Catalogue().examples("nowhere", "train")


def test_json_lines(tmp_path):
    catalogue = Catalogue(jsonl={"figs": str(write_jsonl(tmp_path / "figs", 2))})
    even, odd = catalogue.examples("figs", "test")
    assert even == Example(
        "figs/test/0", "figs", "test 0: Ann has 0 figs. Who has figs?", "", "Ann", explanations=("Ann has 0",)
    )
    assert odd.explanations == ("Ann has 1", "nobody else has any")
    assert "figs" in catalogue.names()
    catalogue.register()
    assert "figs" in seqio.TaskRegistry.names()
    assert "figs" not in Catalogue().names()
    tasks.register()
    assert "figs" not in seqio.TaskRegistry.names()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a"}', "lacks 'answer'"),
        ('{"prompt": "a", "answer": 3}', "answer is no text"),
        ('{"prompt": " ", "answer": "b"}', "prompt is no text"),
        ('{"prompt": "a", "answer": "b", "explanation": 3}', "neither text nor a list"),
        ('{"prompt": "a", "answer": "b", "explanations": "c"}', "'explanations', which is none of"),
        ('{"prompt": "a\\ud800", "answer": "b"}', r"its prompt has the character U\+D800"),
        ('{"prompt": "a", "answer": "b\\u0000"}', r"its answer has the character U\+0000"),
        (
            '{"prompt": "a", "answer": "b", "explanation": ["c", "\\u001b"]}',
            r"its explanation has the character U\+001B",
        ),
        ('["a", "b"]', "not a JSON object"),
        ('{"prompt": "a", "answer": "b"', "not JSON"),
    ],
)
def test_a_malformed_line_is_named(line, words, tmp_path):
    folder = write_jsonl(tmp_path / "figs")
    (folder / "test.jsonl").write_text('{"prompt": "a", "answer": "b"}\n' + line + "\n")
    catalogue = Catalogue(jsonl={"figs": str(folder)})
    with pytest.raises(RequestError, match=rf"^{folder}/test.jsonl:2: not an example .*{words}"):
        catalogue.examples("figs", "test")


def test_a_folder_or_a_name_that_will_not_do(tmp_path):
    folder = write_jsonl(tmp_path / "figs")
    for name in ("babi_qa1", "babi_all", "a b", ""):
        with pytest.raises(RequestError, match="the name is taken, or is none"):
            Catalogue(jsonl={name: str(folder)})
    (folder / "validation.jsonl").unlink()
    with pytest.raises(RequestError, match=r"figs/validation.jsonl: no such file; write one example a line"):
        tasks.register(jsonl={"figs": str(folder)})
    assert "babi_qa1" in seqio.TaskRegistry.names()


def test_updates_of_ones_own_are_learnt_from(tmp_path):
    (tmp_path / "vocabulary.model").write_bytes(vocabularies.EMBEDDED.read_bytes())
    line = {
        "example_id": "figs/train/0",
        "task": "figs",
        "update": "Ann has 0",
        "teacher": "me",
        "prompt": "",
        "sample": 0,
    }
    (tmp_path / "updates.jsonl").write_text(json.dumps(line | {"sample": 0, "seed": 0}) + "\n")
    path, updates = compose.distilled_files(tmp_path, Agent("mine", explained, update=Explanations))
    assert path == tmp_path / "vocabulary.model"
    assert [update.update for update in updates["figs/train/0"]] == ["Ann has 0"]
