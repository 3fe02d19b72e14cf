"""`distill`: taken up again wherever it was broken, and never mixed with another's updates."""

import json
import pathlib
import re

import gin
import hypothesis
import pytest
import teacher_server
from hypothesis import strategies as st

from cd_jax.errors import RequestError, RunError
from cd_jax.learning import batches
from cd_jax.learning import distillation as verb
from cd_jax.learning.distillation import distill
from cd_jax.rundir import updates as store
from cd_jax.rundir.attempts import read as read_attempts
from cd_jax.tasks import Catalogue
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.update.teachers.budget import TeacherBudget
from cd_jax.update.teachers.teacher import Explanation

SOURCE = "babi_qa2_low_data"
EXAMPLES = 5


@pytest.fixture(autouse=True)
def unbound():
    """No bindings of another test."""
    gin.clear_config()


def run(folder, **settings):
    settings = {"source": SOURCE, "targets": [], "vocabulary": str(vocabularies.EMBEDDED)} | settings
    distill(str(folder), **settings)


def content(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder)
    return content(folder)


class Slow:
    """A teacher at an endpoint: asked for one example after the other, it can fail at any."""

    name = "slow"

    def __init__(self, patience=10**6, more=3):
        self.patience, self.more, self.asked = patience, more, []

    def explain(self, example, attempt, num_updates, seed):
        if len(self.asked) == self.patience:
            raise ConnectionError("gone")
        self.asked.append(example.example_id)
        texts = [f"because {i} of {example.answer}, not {attempt}" for i in range(min(num_updates, self.more))]
        return [Explanation(text, "why") for text in texts]


def test_every_example_is_explained(uninterrupted):
    lines = [json.loads(line) for line in uninterrupted["updates.jsonl"].splitlines()]
    examples = Catalogue().examples(SOURCE, "train")
    assert [line["example_id"] for line in lines] == [example.example_id for example in examples for _ in range(3)]
    assert [line["sample"] for line in lines] == [0, 1, 2] * EXAMPLES
    for line, example in zip(lines[::3], examples, strict=True):
        assert all(fact in line["update"] for fact in example.supporting_facts)
        assert (line["task"], line["teacher"], line["seed"], line["score"]) == (example.task, "oracle", 0, None)


def test_running_again_changes_nothing(tmp_path, uninterrupted):
    run(tmp_path)
    run(tmp_path)
    assert content(tmp_path) == uninterrupted


@hypothesis.settings(max_examples=40, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(st.data())
def test_broken_off_at_any_byte(tmp_path, uninterrupted, data):
    whole = uninterrupted["updates.jsonl"]
    cut = data.draw(st.integers(0, len(whole)))
    (tmp_path / "updates.jsonl").write_bytes(whole[:cut])
    run(tmp_path)
    assert content(tmp_path) == uninterrupted


@pytest.mark.parametrize("newline", [-1, 0, 1])
@pytest.mark.parametrize("line", [1, 2, 3, 15])
def test_broken_off_around_the_end_of_a_line(tmp_path, uninterrupted, line, newline):
    whole = uninterrupted["updates.jsonl"]
    cut = [match.start() for match in re.finditer(b"\n", whole)][line - 1] + newline
    (tmp_path / "updates.jsonl").write_bytes(whole[:cut])
    run(tmp_path)
    assert content(tmp_path) == uninterrupted


@pytest.mark.parametrize("patience", range(EXAMPLES))
def test_a_teacher_that_fails_is_not_asked_twice(tmp_path, patience):
    failing, second = Slow(patience), Slow()
    with pytest.raises(ConnectionError):
        run(tmp_path / "broken", teacher=lambda: failing)
    written = tmp_path / "broken" / "updates.jsonl"
    assert (len(store.read(written)) if written.exists() else 0) == 3 * patience
    run(tmp_path / "broken", teacher=lambda: second)
    assert len(failing.asked + second.asked) == len(set(failing.asked + second.asked)) == EXAMPLES
    run(tmp_path / "whole", teacher=Slow)
    assert content(tmp_path / "broken") == content(tmp_path / "whole")


def test_more_updates_are_added_to_those_there(tmp_path):
    run(tmp_path, num_updates=1)
    assert len(store.read(tmp_path / "updates.jsonl")) == EXAMPLES
    run(tmp_path, num_updates=3)
    groups = store.read_grouped(tmp_path / "updates.jsonl").values()
    for group in groups:
        assert [update.sample for update in group] == [0, 1, 2]
        assert len({update.update for update in group}) == 3


@pytest.mark.parametrize("other", [{"source": "babi_qa6_low_data"}, {"seed": 1}], ids=str)
@pytest.mark.parametrize("cut", [None, 700])
def test_updates_of_another_request_are_not_mixed(tmp_path, uninterrupted, other, cut):
    (tmp_path / "updates.jsonl").write_bytes(uninterrupted["updates.jsonl"][:cut])
    before = content(tmp_path)
    said = "seed 0" if "seed" in other else "example 'babi_qa2/train/"
    with pytest.raises(RequestError, match=f"updates.jsonl: holds updates of {said}.*; choose another"):
        run(tmp_path, **other)
    assert content(tmp_path) == before


def test_updates_of_another_teacher_are_not_mixed(tmp_path, uninterrupted):
    first = uninterrupted["updates.jsonl"].splitlines(keepends=True)[0]
    (tmp_path / "updates.jsonl").write_bytes(first.replace(b'"oracle"', b'"somebody"'))
    before = content(tmp_path)
    with pytest.raises(RequestError, match=r"updates\.jsonl: holds updates of the teacher 'somebody'; choose another"):
        run(tmp_path)
    assert content(tmp_path) == before


def write_attempts(path, generations):
    path.write_text("".join(json.dumps({"example_id": k, "generation": v}) + "\n" for k, v in generations.items()))
    return str(path)


def test_attempts_are_scored_and_shown_to_the_teacher(tmp_path):
    examples = Catalogue().examples(SOURCE, "train")
    wrong = next(place for place in ("kitchen", "garden") if place != examples[1].answer)
    said = {
        examples[0].example_id: f"because. answer: {examples[0].answer}",
        examples[1].example_id: f"because. answer: {wrong}",
    }
    run(tmp_path / "run", attempts=write_attempts(tmp_path / "said.jsonl", said))
    groups = store.read_grouped(tmp_path / "run" / "updates.jsonl")
    scores = {example_id: {update.score for update in group} for example_id, group in groups.items()}
    assert scores[examples[0].example_id] == {1.0}
    [graded] = scores[examples[1].example_id]
    assert 0.0 <= graded < 0.6
    assert [scores[example.example_id] for example in examples[2:]] == [{None}] * 3
    contrasts = [f"it is {examples[1].answer} and not {wrong}." in u.update for u in groups[examples[1].example_id]]
    assert contrasts.count(True) == 1
    assert not any("and not" in update.update for update in groups[examples[0].example_id])


def test_attempts_are_read_as_infer_writes_them(tmp_path):
    generation = "line\u2028separator \x85 é. answer: yes"
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"example_id": "x", "generation": generation, "more": 1}, ensure_ascii=False) + "\n")
    assert [(said.example_id, said.generation) for said in read_attempts(str(path))] == [("x", generation)]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b'{"example_id": "x"}',
        b'{"example_id": ["x"], "generation": "y"}',
        b'{"example_id": "x", "generation": null}',
        b'{"example_id": "x", "generation": "\xff"}',
    ],
)
def test_malformed_attempts(tmp_path, line):
    path = tmp_path / "said.jsonl"
    path.write_bytes(b'{"example_id": "x", "generation": "y"}\n' + line + b'\n{"example_id": "x", "generation": "y"}\n')
    with pytest.raises(RequestError) as error:
        read_attempts(str(path))
    assert str(error.value).startswith(f"{path}:2: not an attempt (")
    assert "\n" not in str(error.value)
    with pytest.raises(RequestError):
        run(tmp_path / "run", attempts=str(path))
    assert not (tmp_path / "run").exists()


def test_missing_attempts(tmp_path):
    with pytest.raises(RequestError, match=r"lost\.jsonl: no such file; `cd_jax infer` writes attempts"):
        run(tmp_path, attempts=str(tmp_path / "lost.jsonl"))


@pytest.mark.parametrize("vocabulary", ["lost.model", "bad.model"])
def test_a_wrong_vocabulary_is_known_before_a_teacher_is_asked(tmp_path, vocabulary):
    (tmp_path / "bad.model").write_bytes(b"What is this?")
    teacher = Slow()
    with pytest.raises(RequestError, match=vocabulary):
        run(tmp_path / "run", vocabulary=str(tmp_path / vocabulary), teacher=lambda: teacher)
    assert teacher.asked == []
    assert not (tmp_path / "run").exists()


class TestTrainedVocabulary:
    def test_spells_what_there_is_to_read_and_has_read_no_question_of_a_test(self, tmp_path, monkeypatch):
        read = []
        trained = vocabularies.train

        def spy(texts, size):
            read.extend(texts)
            return trained(read, size)

        monkeypatch.setattr(verb.vocabularies, "train", spy)
        run(tmp_path, targets=["babi_qa13_low_data"], vocabulary=None, vocabulary_size=350)
        vocabulary = vocabularies.load(tmp_path / "vocabulary.model")
        assert vocabulary.vocab_size <= 350
        for example in (*Catalogue().examples(SOURCE, "train"), *Catalogue().examples("babi_qa13_low_data", "train")):
            assert example.prompt in read
            assert vocabulary.decode(vocabulary.encode(example.prompt)) == example.prompt
        assert {update.update for update in store.read(tmp_path / "updates.jsonl")} <= set(read)
        answers = {text for text in read if text.startswith("answer: ")}
        assert answers == {f"answer: {example.answer}" for example in Catalogue().examples(SOURCE, "train")}
        for split in ("validation", "test"):
            for task in (SOURCE, "babi_qa13_low_data"):
                assert not {example.prompt for example in Catalogue().examples(task, split)} & set(read)

    def test_an_interrupted_run_gives_the_same(self, tmp_path, uninterrupted):
        run(tmp_path / "whole", vocabulary=None, vocabulary_size=350)
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "updates.jsonl").write_bytes(uninterrupted["updates.jsonl"][:999])
        run(tmp_path / "broken", vocabulary=None, vocabulary_size=350)
        assert content(tmp_path / "broken") == content(tmp_path / "whole")

    def test_one_that_is_there_is_kept(self, tmp_path, uninterrupted):
        """Updates that are added later must not change the ids under a trained run."""
        run(tmp_path, num_updates=1)
        before = content(tmp_path)["vocabulary.model"]
        run(tmp_path, num_updates=3, vocabulary=None)
        assert content(tmp_path)["vocabulary.model"] == before

    def test_one_that_is_torn_is_made_anew(self, tmp_path, capfd):
        run(tmp_path, vocabulary=None, vocabulary_size=350)
        path = tmp_path / "vocabulary.model"
        whole = path.read_bytes()
        path.write_bytes(whole[:100])
        run(tmp_path, vocabulary=None, vocabulary_size=350)
        assert path.read_bytes() == whole
        assert f"{path} is damaged and is made anew" in capfd.readouterr().out


@pytest.fixture
def asked(monkeypatch):
    """A server, and what makes a teacher that asks it."""
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with teacher_server.serve() as server:
        yield server, lambda: teacher_server.teacher(server.url)


class TestAsked:
    """A teacher behind an endpoint; more of it in tests/update/test_asking.py."""

    def test_no_explanation_at_all_is_a_failure(self, tmp_path, asked):
        server, teacher = asked
        server.settings.text = "..."
        said = r"no explanation of 5 examples; of the answers: 30 empty .*; 30 answers, .*; mend the teacher"
        with pytest.raises(RunError, match=said):
            run(tmp_path, teacher=teacher)
        assert not (tmp_path / "vocabulary.model").exists()

    def test_one_line_of_progress_for_many_calls(self, tmp_path, capfd, asked):
        run(tmp_path, source="babi_low_data", teacher=asked[1])
        assert capfd.readouterr().out.count("step ") <= 10

    def test_an_estimate_asks_nothing_and_bounds_what_is_asked(self, tmp_path, capfd, asked):
        server, teacher = asked
        run(tmp_path, teacher=teacher, batch=batches.Batch(estimate=True))
        said = re.search(r"5 examples want updates: (\d+) requests, ([\d,]+) tokens of prompts and ([\d,]+) of answers",
                         capfd.readouterr().out)  # fmt: skip
        assert not server.seen and not (tmp_path / "updates.jsonl").exists()
        server.settings.variety = 10**6
        run(tmp_path, teacher=teacher)
        requests, prompts, answers = (int(text.replace(",", "")) for text in said.groups())
        assert requests == sum(server.seen.values()) == 15
        assert server.tokens[0] < prompts and server.tokens[1] < answers == 15 * 200
        run(tmp_path, teacher=teacher, batch=batches.Batch(estimate=True))
        assert "0 examples want updates: 0 requests" in capfd.readouterr().out

    def test_an_estimate_bounds_also_what_must_be_asked_again(self, tmp_path, capfd, asked):
        server, teacher = asked
        server.settings.text = "the same"
        run(tmp_path, teacher=teacher, batch=batches.Batch(estimate=True))
        told = r"as often as it may, (\d+) requests, ([\d,]+) tokens of prompts and ([\d,]+)"
        said = re.search(told, capfd.readouterr().out)
        requests, prompts, answers = (int(text.replace(",", "")) for text in said.groups())
        run(tmp_path, teacher=teacher)
        assert sum(server.seen.values()) <= requests
        assert server.tokens[0] <= prompts and server.tokens[1] <= answers

    def test_another_prompt_is_asked_and_the_first_one_is_not_paid_again(self, tmp_path, capfd, asked):
        server, _ = asked

        def of(name, **settings):
            return lambda: teacher_server.teacher(server.url, prompt_file=name, **settings)

        run(tmp_path, teacher=of("why"))
        first, sent = (tmp_path / "updates.jsonl").read_bytes(), sum(server.seen.values())
        for other in (of("why_babi"), of("why", temperature=0.0)):
            run(tmp_path, teacher=other, batch=batches.Batch(estimate=True))
            assert "5 examples want updates" in capfd.readouterr().out
            assert (tmp_path / "updates.jsonl").read_bytes() == first
            run(tmp_path, teacher=other)
            assert "are of another prompt or setting and are made anew" in capfd.readouterr().out
            hashes = {update.prompt_hash for update in store.read(tmp_path / "updates.jsonl")}
            assert len(hashes) == 1 and sum(server.seen.values()) >= sent + 15
            sent = sum(server.seen.values())
            run(tmp_path, teacher=of("why"))
            assert (tmp_path / "updates.jsonl").read_bytes() == first and sum(server.seen.values()) == sent

    def test_without_a_journal_nothing_is_lost(self, tmp_path, asked):
        server, teacher = asked
        run(tmp_path, teacher=teacher)
        (tmp_path / "requests.jsonl").unlink()
        before = content(tmp_path)
        with pytest.raises(RequestError, match="updates of another prompt or setting; choose another --model_dir"):
            run(tmp_path, teacher=lambda: teacher_server.teacher(server.url, prompt_file="why_babi"))
        assert content(tmp_path) == before

    def test_what_is_exported_fits_the_budget(self, tmp_path, asked):
        server, _ = asked

        def teacher():
            return teacher_server.teacher(server.url, budget=lambda: TeacherBudget(requests=14))

        with pytest.raises(RequestError, match=r"15 requests may pass the budget of 14 requests"):
            run(tmp_path, teacher=teacher, batch=batches.Batch(exported=str(tmp_path / "out")))
        assert not (tmp_path / "out").exists()

    def test_what_was_exported_is_no_answer(self, tmp_path, asked):
        _, teacher = asked
        run(tmp_path, teacher=teacher, batch=batches.Batch(exported=str(tmp_path / "out")))
        with pytest.raises(RequestError, match=r"batch-00000\.jsonl:1: .*it is a request, as it was exported"):
            run(tmp_path, teacher=teacher, batch=batches.Batch(imported=[str(tmp_path / "out" / "batch-00000.jsonl")]))

    def test_batches_give_what_asking_gives(self, tmp_path, capfd, asked):
        server, teacher = asked
        run(tmp_path / "online", teacher=teacher)
        server.seen.clear()
        for number in range(9):
            folder = tmp_path / f"out{number}"
            run(tmp_path / "batch", teacher=teacher, batch=batches.Batch(exported=str(folder)))
            files = teacher_server.answer_batches(folder, server.settings)
            run(tmp_path / "batch", teacher=teacher, batch=batches.Batch(imported=files))
            if (tmp_path / "batch" / "vocabulary.model").exists():
                break
            assert "requests are still to be answered" in capfd.readouterr().out
        assert number and not server.seen
        names = ("updates.jsonl", "vocabulary.model")
        there, expected = content(tmp_path / "batch"), content(tmp_path / "online")
        assert [there[name] for name in names] == [expected[name] for name in names]

    @pytest.mark.parametrize("batch", [{"estimate": True}, {"exported": "x"}, {"imported": ["x"]}], ids=str)
    def test_a_teacher_that_is_not_asked_has_no_batches(self, tmp_path, batch):
        with pytest.raises(RequestError, match="this teacher sends no requests: give .*OpenAITeacher"):
            run(tmp_path, batch=batches.Batch(**batch))


def test_updates_that_somebody_wrote(tmp_path):
    """With what there must be, more than there must be, and no teacher."""
    examples = Catalogue().examples(SOURCE, "train")
    lines = [{"example_id": e.example_id, "update": f"because {i}", "mine": 1} for e in examples for i in range(2)]
    (tmp_path / "updates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(tmp_path, teacher=None)
    groups = store.read_grouped(tmp_path / "updates.jsonl")
    assert [[update.sample for update in group] for group in groups.values()] == [[0, 1]] * EXAMPLES
    assert (tmp_path / "vocabulary.model").exists()
