"""Filters on the files of a directory: nothing is lost or asked again, and other filters part all of it anew."""

import json

import pytest
import runs
import teacher_server

from cd_jax.errors import RunError
from cd_jax.learning import cleaning, distillation
from cd_jax.rundir import updates as store
from cd_jax.tasks import Catalogue
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.update.filters import words

SOURCE = "babi_qa2_low_data"
DUPLICATES = [words.NearDuplicate(0.5)]


def distill(folder, **settings):
    given = {"source": SOURCE, "targets": [], "vocabulary": str(vocabularies.EMBEDDED)} | settings
    distillation.distill(str(folder), **given)


def lines(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_the_oracle_says_one_thing_in_three_ways(tmp_path, capfd):
    distill(tmp_path / "all")
    before = (tmp_path / "all" / store.NAME).read_bytes()
    distill(tmp_path / "all", filters=DUPLICATES)
    assert "10 of 15 updates are rejected: 10 duplicate" in capfd.readouterr().out
    assert len(lines(tmp_path / "all", store.NAME)) == 5
    assert all(one["rejected"].startswith("duplicate: as sample") for one in lines(tmp_path / "all", store.REJECTED))
    # At once, or later: the same; and again: nothing changes.
    for _ in range(2):
        distill(tmp_path / "once", filters=DUPLICATES)
        for name in (store.NAME, store.REJECTED):
            assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()
    # Without filters all of it comes back.
    distill(tmp_path / "all", filters=[])
    assert (tmp_path / "all" / store.NAME).read_bytes() == before
    assert lines(tmp_path / "all", store.REJECTED) == []


@pytest.mark.parametrize("left", [store.NAME, store.REJECTED])
def test_a_kill_between_the_two_files(tmp_path, left):
    """The rejected ones are written first: then all of them stand in both files."""
    distill(tmp_path / "a")
    distill(tmp_path / "b", filters=DUPLICATES)
    if left == store.NAME:
        (tmp_path / "b" / store.NAME).write_bytes((tmp_path / "a" / store.NAME).read_bytes())
    else:
        (tmp_path / "b" / store.REJECTED).write_bytes((tmp_path / "a" / store.NAME).read_bytes())
    distill(tmp_path / "b", filters=DUPLICATES)
    distill(tmp_path / "c", filters=DUPLICATES)
    for name in (store.NAME, store.REJECTED):
        assert lines(tmp_path / "b", name) == lines(tmp_path / "c", name)


def test_what_somebody_wrote_keeps_its_fields(tmp_path):
    examples = Catalogue().examples(SOURCE, "train")
    said = ["because of it", "because of it!", "as nobody took it"]
    written = [{"example_id": e.example_id, "update": text, "mine": [text]} for e in examples for text in said]
    path = tmp_path / store.NAME
    path.write_text("".join(json.dumps(line) + "\n" for line in written))
    distill(tmp_path, teacher=None, filters=DUPLICATES)
    kept, rejected = lines(tmp_path, store.NAME), lines(tmp_path, store.REJECTED)
    assert [line["mine"] for line in kept] == [[said[0]], [said[2]]] * 5
    assert [line["mine"] for line in rejected] == [[said[1]]] * 5
    assert [line["sample"] for line in kept + rejected] == [0, 2] * 5 + [1] * 5


def test_what_was_rejected_is_not_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with teacher_server.serve(citing=True, variety=10**6) as server:

        def teacher():
            return teacher_server.teacher(server.url, max_extra_asks=0)

        distill(tmp_path, teacher=teacher, filters=DUPLICATES)
        sent = sum(server.seen.values())
        distill(tmp_path, teacher=teacher, filters=DUPLICATES)
        assert sum(server.seen.values()) == sent
        assert len(cleaning.said(tmp_path / store.NAME)) == len(lines(tmp_path, store.NAME)) + len(
            lines(tmp_path, store.REJECTED)
        )


def test_when_nothing_is_left_it_is_said(tmp_path):
    with pytest.raises(RunError, match=r"15 were filtered out \(rejected\.jsonl\); mend the teacher or the filters"):
        distill(tmp_path, filters=[words.TooLong(1)])


@pytest.mark.slow
def test_an_example_without_updates_is_learnt_by_its_answer(tmp_path, user_environment):
    distilled = tmp_path / "d"
    done = runs.command(
        runs.arguments("distill", distilled, SOURCE=f"'{runs.SOURCE}'", FILTERS="[@TooLong()]", TooLong__most=6),
        user_environment,
    )
    assert done.returncode == 0, done.stderr
    there = {line["example_id"] for line in lines(distilled, store.NAME)}
    without = {line["example_id"] for line in lines(distilled, store.REJECTED)} - there
    assert there and without, "the filter is to reject some of them"
    trained = runs.command(runs.train_arguments(tmp_path / "run", distilled), user_environment)
    assert trained.returncode == 0, trained.stderr
    assert f"{len(without)} of {len(there | without)} examples have no update that was kept" in trained.stdout
    # Of what was never explained it is not said, but refused.
    (distilled / store.REJECTED).unlink()
    refused = runs.command(runs.train_arguments(tmp_path / "other", distilled), user_environment)
    assert refused.returncode == 2 and "run `cd_jax distill` on this source" in refused.stderr
