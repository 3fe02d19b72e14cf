"""The memory browser of the report, on records written by hand."""

import html
import json
import pathlib
import re

import pytest

from cd_jax.report import memory, page
from cd_jax.report.examples import Run

TASK = "target"
FIRST, SECOND, THIRD = ("because A", "s/1"), ("because B", "s/2"), ("because A", "s/3")


def passage(query: str, held: tuple[str, str], distance: float, attention: float | None = None) -> dict:
    made = {"query": query, "update": held[0], "example_id": held[1], "distance": distance}
    return made if attention is None else made | {"attention": attention}


def record(number: int, correct: bool | None, *retrieved: dict, **more) -> dict:
    return {
        "example_id": f"t/{number}",
        "prompt": f"Prompt {number}?",
        "answer": "yes",
        "generation": f"so answer: {number}",
        "prediction": "yes",
        "correct": correct,
        "retrieved": list(retrieved),
        **more,
    }


RECORDS = [
    record(0, True, passage("axis 1", FIRST, 1.0, 0.75), passage("key", SECOND, 3.0, 0.25), prompt_attention=0.5),
    record(1, False, passage("axis 1", FIRST, 2.0, 0.4), passage("key", THIRD, 5.0, 0.6), prompt_attention=0.3),
    record(2, True, passage("axis 1", FIRST, 3.0, 0.1), passage("key", SECOND, 7.0, 0.9)),
    record(3, True),
    # Equal shares: the first counts.
    record(4, False, passage("axis 1", SECOND, 4.0, 0.5), passage("key", FIRST, 1.0, 0.5)),
]
ENTRIES = [
    {"example_id": "s/1", "prompt": "Where is A?", "update": "because A"},
    {"example_id": "s/2", "prompt": "Where is <B>?", "update": "because B"},
]


def run(records: list[dict], agent: str = "cd_memory", seed: int = 0, entries: list[dict] = ENTRIES) -> Run:
    return Run(agent, seed, [], {TASK: {found["example_id"]: found for found in records}}, entries)


def panel(records: list[dict], **more) -> memory.Panel:
    ((task, (made,)),) = memory.browsers([TASK], [run(records, **more)])
    assert task == TASK
    return made


def older(records: list[dict]) -> list[dict]:
    """The records as they were before attention was recorded."""
    keep = ("query", "update", "example_id", "distance")
    return [
        {key: value for key, value in found.items() if key != "prompt_attention"}
        | {"retrieved": [{key: entry[key] for key in keep} for entry in found["retrieved"]]}
        for found in records
    ]


def test_facts_of_a_run():
    assert dict(panel(RECORDS).facts) == {
        "Answers with retrievals": "4 of 5, accuracy 0.500",
        "Memories retrieved": "3 different in 8 retrievals, of 2 held",
        "Attended to most": "the first passage in 50 %, the key's in 50 % of 4 answers",
        "Attention to the prompt": "40 % on average",
    }


def test_the_first_passage_need_not_be_the_complement_of_the_key():
    three = [passage("axis 1", FIRST, 1, 0.2), passage("axis 2", SECOND, 1, 0.5), passage("key", THIRD, 1, 0.3)]
    found = dict(panel([*RECORDS, record(5, True, *three)]).facts)
    assert found["Attended to most"] == "the first passage in 40 %, the key's in 40 % of 5 answers"


def test_retrievals_by_query():
    # Of axis 1: distances 1, 2, 3, 4, attention 0.75, 0.4, 0.1, 0.5; of the key: 3, 5, 7, 1 and what is left.
    assert panel(RECORDS).queries.rows == (
        ("axis 1", "4 (50 %)", "2.500", "44 %", "2 (50 %)"),
        ("key", "4 (50 %)", "4.000", "56 %", "2 (50 %)"),
    )


def test_most_retrieved_memories_have_the_accuracy_of_their_answers():
    # The same text from another example is another memory.
    assert panel(RECORDS).memories == [
        memory.Memory("because A", "s/1", 4, "0.500"),
        memory.Memory("because B", "s/2", 3, "0.667"),
        memory.Memory("because A", "s/3", 1, "0.000"),
    ]


def test_an_answer_counts_once_for_a_memory():
    twice = record(0, True, passage("axis 1", FIRST, 1.0), passage("key", FIRST, 1.0))
    assert panel([twice]).memories == [memory.Memory("because A", "s/1", 1, "1.000")]


def test_only_the_ten_most_retrieved_are_listed():
    often = [record(n, None, *(passage("key", (f"u{m}", ""), 1.0) for m in range(n, 14))) for n in range(14)]
    found = panel(often)
    assert [(held.text, held.answers) for held in found.memories] == [(f"u{m}", m + 1) for m in range(13, 3, -1)]
    assert {held.accuracy for held in found.memories} == {"–"}  # no answer was known
    assert dict(found.facts)["Memories retrieved"].startswith("14 different in 105 retrievals")


def test_an_example_shows_its_queries_and_what_was_attended_to():
    found = {example.example_id: example for example in panel(RECORDS).browsed}
    first, key = found["t/1"].passages
    assert first == memory.Passage("axis 1", "because A", "s/1", "Where is A?", "2.000", 40.0, False)
    assert key == memory.Passage("key", "because A", "s/3", "", "5.000", 60.0, True)
    assert found["t/1"].prompt_attention == 30.0 and found["t/2"].prompt_attention is None
    assert [entry.attended for entry in found["t/4"].passages] == [True, False]
    assert found["t/3"].passages == []


@pytest.mark.parametrize("wrong", [float("nan"), "0.5", None])
def test_attention_that_is_no_number_counts_as_absent(wrong):
    bad = record(0, True, passage("axis 1", FIRST, 1) | {"attention": wrong}, passage("key", SECOND, 1, 0.25))
    assert [(entry.attention, entry.attended) for entry in panel([bad]).browsed[0].passages] == [
        (None, False),
        (25.0, True),
    ]


def test_records_without_attention():
    found = panel(older(RECORDS))
    assert ("Attended to most", "not recorded") in found.facts
    assert [row[3:] for row in found.queries.rows] == [("–", "–")] * 2
    assert not any(entry.attended for example in found.browsed for entry in example.passages)
    assert found.memories == panel(RECORDS).memories


def test_at_most_twenty_examples_by_the_rule_of_the_page():
    records = [record(n, n >= 3, passage("key", FIRST, 1.0)) for n in range(30)]
    chosen = [example.example_id for example in panel(records).browsed]
    # Right is commoner than wrong; they take turns until the wrong ones are used up.
    assert chosen[:7] == ["t/3", "t/0", "t/4", "t/1", "t/5", "t/2", "t/6"] and len(chosen) == 20


def test_only_runs_that_retrieved_have_a_panel():
    runs = [run([record(0, True)], "baseline"), run(RECORDS), run(RECORDS, seed=1), run(RECORDS, "other")]
    ((_, panels),) = memory.browsers(["nothing", TASK], runs)
    # One seed an agent; the second task, and the places among the agents that are shown.
    assert [(made.arm, made.seed, made.anchor) for made in panels] == [
        ("cd_memory", 0, "memory-1-1"),
        ("other", 0, "memory-1-2"),
    ]
    # Only the first example was decoded by the baseline, too; figures are of all the same.
    assert [len(made.browsed) for made in panels] == [1, 1] and panels[0].facts == panel(RECORDS).facts
    assert memory.browsers([TASK], [run([record(0, True)])]) == []


def test_a_long_prompt_is_cut_to_its_end_at_a_word():
    prompt = "John went home. " * 20 + "Where is John?"
    brief = panel([record(0, True, passage("key", FIRST, 1.0)) | {"prompt": prompt}]).browsed[0].brief
    assert brief.startswith("… ") and f" {prompt}".endswith(brief[1:]) and 80 < len(brief) < 93


def write_run(directory: pathlib.Path, records: list[dict], agent: str = "cd_memory") -> None:
    folder = directory / f"{agent}-seed0"
    (folder / "inference").mkdir(parents=True)
    (folder / "memory").mkdir()
    target = {"task": TASK, "accuracy": 0.5, "n": len(records)}
    (folder / "results.json").write_text(json.dumps({"runs": [{"agent": agent, "seed": 0, "targets": [target]}]}))
    for path, lines in (("inference/target-7.jsonl", records), ("memory/entries.jsonl", ENTRIES)):
        (folder / path).write_text("".join(json.dumps(line) + "\n" for line in lines))


def section(directory: pathlib.Path) -> str:
    return page.write(directory).read_text().partition('<h2 id="memory">')[2]


def test_the_page_has_a_browser(tmp_path):
    write_run(tmp_path, RECORDS)
    text = section(tmp_path)
    assert text.count('<details class="pick"') == 6 and text.count('<details class="pick" open>') == 1
    # One mark of each example with retrievals, and bars of eight passages and two prompts.
    assert text.count('<span class="bar attended"') == 4 == text.count("◂ attended to most")
    shares = re.findall(r'class="bar[^>]*--share: ([\d.]+)%"', text)
    assert sorted(map(float, shares)) == [10, 25, 30, 40, 50, 50, 50, 60, 75, 90]
    assert text.count("nothing was retrieved") == 1
    assert "Where is &lt;B&gt;?" in text


def test_the_examples_of_the_page_lead_to_the_browser(tmp_path):
    write_run(tmp_path, [record(n, True) for n in (3, 0, 1, 2, 4)], agent="baseline")
    write_run(tmp_path, RECORDS)
    text = page.write(tmp_path).read_text()
    links = re.findall(r'href="#([^"]+)"', text)
    # Four examples are on the page, in the order of the first run, and the first has no retrievals.
    assert len(links) == 3
    articles = re.findall(r'<article class="example">.*?</article>', text, re.DOTALL)
    leading = [article for article in articles if "href=" in article]
    for link, article in zip(links, leading, strict=True):
        asked = re.search(r"Asked · (t/\d)", article)[1]
        assert text.count(f'<div class="label" id="{link}">Asked · {asked}</div>') == 1


def test_an_older_run_renders(tmp_path):
    write_run(tmp_path, older(RECORDS))
    (tmp_path / "cd_memory-seed0" / "memory" / "entries.jsonl").unlink()
    text = section(tmp_path)
    assert 'class="bar' not in text and text.count('<span class="muted">not recorded</span>') == 8
    assert "because A" in text and "Where is" not in text


def test_the_page_escapes_what_models_and_memories_say(tmp_path):
    bad = '</td><script>alert("x")</script>'
    held = (bad, f"s{bad}")
    found = record(0, True, passage(f"key{bad}", held, 1.0, 1.0), prompt=f"P{bad}", generation=bad, answer=bad)
    write_run(tmp_path, [found | {"example_id": f"t{bad}"}])
    text = page.write(tmp_path).read_text()
    assert "<script" not in text.lower()
    # The prompt, its end, answer, generation, ids and query, and both places of the memory.
    assert section(tmp_path).count(str(html.escape(bad)).replace("&quot;", "&#34;")) >= 9


def test_the_page_is_the_same_each_time(tmp_path):
    write_run(tmp_path, RECORDS)
    first = page.write(tmp_path).read_bytes()
    assert page.write(tmp_path).read_bytes() == first


def test_no_retrievals(tmp_path):
    write_run(tmp_path, [record(0, True)])
    assert "No run retrieved anything" in section(tmp_path)
