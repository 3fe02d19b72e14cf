"""What the filters find among updates of the rule oracle of which 30 % were corrupted in five known ways.

    python benchmarks/cleaning.py [--babi_dir=tasks_1-20_v1-2] [--share=0.3] [--seed=0] [--per_task=200]

prints a JSON line for each filter: of what was corrupted in each way, the share that it rejects; of all that it
rejects, the share that was corrupted in a way that it is for (precision); of these, the share that it rejects (recall);
and a last line for all filters together.
"""

import argparse
import collections
import json
import pathlib
import random
import sys

from cd_jax.learning import cleaning
from cd_jax.rundir import updates as store
from cd_jax.tasks import Catalogue
from cd_jax.update.filters import faithful, words
from cd_jax.update.filters.filter import clean

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
import corruptions

# What each filter is for.
FOR = {
    words.ContradictsLabel(): ("wrong answer",),
    words.AnswerAlone(): ("answer alone",),
    words.TooLong(60): ("babble",),
    words.NearDuplicate(): ("repeated",),
    faithful.ContradictsFacts(): (),
    faithful.Unfaithful(): ("answer alone", "false fact", "too few facts", "babble"),
}
# At what they are by default.
ALL = [
    words.ContradictsLabel(), words.AnswerAlone(), words.TooLong(), words.NearDuplicate(), words.Improbable(),
    words.LowScore(), faithful.ContradictsFacts(), faithful.Unfaithful(),
]  # fmt: skip


def rejected_by(filters, examples, updates):
    """The indices of those that the filters reject."""
    of_id = {example.example_id: example for example in examples}
    place = {(update.example_id, update.sample): index for index, update in enumerate(updates)}
    found = clean(of_id, updates, filters)
    return {place[update.example_id, update.sample] for update in found.rejected}


def line(name, rejected, ways, wanted):
    of_way, all_of = collections.Counter(ways[i] for i in rejected), collections.Counter(ways)
    targets = {i for i, way in enumerate(ways) if way in wanted}
    hits = len(rejected & targets)
    return {
        "filter": name,
        "rejects": {way or "sound": round(of_way[way] / all_of[way], 4) for way in sorted(all_of)},
        "precision": round(hits / len(rejected), 4) if rejected and wanted else None,
        "recall": round(hits / len(targets), 4) if targets else None,
        "rejected": len(rejected),
    }


def of_directory(tasks, source, model_dir):
    """What each filter, and all together, keep of the updates that a directory holds, and some of both."""
    updates = cleaning.said(pathlib.Path(model_dir) / store.NAME)
    of_id = {example.example_id: example for example in tasks.examples(source, "train")}
    for one in ALL:
        found = clean(of_id, updates, [one])
        print(json.dumps({"filter": one.name, "kept": round(len(found.kept) / len(updates), 4), "of": len(updates)}))
    found = clean(of_id, updates, ALL)
    print(json.dumps({"filter": "all", "kept": round(len(found.kept) / len(updates), 4), "of": len(updates)}))
    for kind, group in found._asdict().items():
        for update in random.Random(0).sample(group, min(len(group), 5)):
            example = of_id[update.example_id]
            shown = {"question": example.question, "answer": example.answer, "update": update.update}
            print(json.dumps({kind: shown | ({"reason": update.reason} if kind == "rejected" else {})}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--babi_dir")
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per_task", type=int, default=200)
    parser.add_argument("--com2sense_dir")
    parser.add_argument("--model_dir", help="of `cd_jax distill`: the share of its updates that each filter keeps")
    parser.add_argument("--source", default="babi_low_data", help="of --model_dir")
    args = parser.parse_args()
    tasks, examples = Catalogue(babi_dir=args.babi_dir, com2sense_dir=args.com2sense_dir), []
    if args.model_dir:
        of_directory(tasks, args.source, args.model_dir)
        return
    for number in range(1, 21):
        examples += tasks.examples(f"babi_qa{number}", "train")[: args.per_task]
    updates, ways = corruptions.corrupt(examples, corruptions.updates_of(examples, args.seed), args.share, args.seed)
    print(json.dumps({"updates": len(updates), "ways": collections.Counter(way or "sound" for way in ways)}))
    for one, wanted in FOR.items():
        print(json.dumps(line(one.name, rejected_by([one], examples, updates), ways, wanted)))
    print(json.dumps(line("all", rejected_by(list(FOR), examples, updates), ways, corruptions.WAYS)))


if __name__ == "__main__":
    main()
