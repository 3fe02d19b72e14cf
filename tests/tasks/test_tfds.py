"""The builders for TensorFlow Datasets, and what reads from them."""

import dataclasses
import hashlib
import importlib.util
import itertools
import shlex
import subprocess
import sys
import tarfile
import types

import hypothesis
import pytest
import requests
import tensorflow_datasets as tfds
from hypothesis import strategies as st

from cd_jax.errors import RequestError
from cd_jax.tasks import prepared, records
from cd_jax.tasks.babi import archive, babi_dataset_builder, format
from cd_jax.tasks.babi.worlds import WORLDS, generate, shifts
from cd_jax.tasks.com2sense import com2sense_dataset_builder, pairs, reader
from cd_jax.types import Example
from originals import BABI_DIR, COM2SENSE_DIR, needs_babi, needs_com2sense

SPLITS = ("train", "validation", "test")
# Preparing all twenty takes long.
FEW = {number: archive.TASK_NAMES[number] for number in (1, 2, 20)}
TEXTS = st.text(st.characters(codec="utf-8"))


def prepare(builder, manual_dir=None, **settings):
    config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False, **settings)
    builder.download_and_prepare(download_config=config)


def generated(builder, manual_dir):
    """The examples of each split, as the builder yields them before anything is written."""
    splits = builder._split_generators(types.SimpleNamespace(manual_dir=manual_dir))
    return {split: list(rows) for split, rows in splits.items()}


def as_written(examples):
    """What is prepared has no explanations of its own: all fields but that one."""
    examples = list(examples)
    assert all(example.explanations == () for _, example in examples)
    return [
        (key, {k: list(v) if k == "supporting_facts" else v for k, v in vars(one).items() if k != "explanations"})
        for key, one in examples
    ]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An archive of one layout with few stories, no two tasks or splits alike."""
    root = tmp_path_factory.mktemp("small") / "tasks_1-20_v1-2"
    (root / "en").mkdir(parents=True)
    worlds = itertools.cycle(WORLDS)
    for (number, name), world in zip(archive.TASK_NAMES.items(), worlds, strict=False):
        stories = generate.stories(world, seed=number)
        for split in ("train", "test"):
            lines = format.write(itertools.islice(stories, 20))
            (root / "en" / f"qa{number}_{name}_{split}.txt").write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def data_dir(small, tmp_path_factory):
    """Three tasks of `babi/en` prepared of `small`; in two shards, which must be read one after the other."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "TASK_NAMES", FEW)
        prepare(babi_dataset_builder.Builder(config="en", data_dir=folder), small, num_shards=2)
    return folder


@hypothesis.given(
    st.builds(
        Example,
        **{
            field.name: st.lists(TEXTS).map(tuple) if field.name == "supporting_facts" else TEXTS
            for field in dataclasses.fields(Example)
            if field.name != "explanations"
        },
    )
)
@hypothesis.settings(max_examples=50)
def test_a_record_is_the_example_again(example):
    features = records.features()
    written = features.serialize_example(records.to_record(example))
    assert records.from_record(features.deserialize_example_np(written)) == example


def test_the_version_is_raised_with_the_fields():
    fields = (
        "answer context contrast domain example_id numeracy pair_id question scenario story_id supporting_facts task"
    )
    assert (records.VERSION, " ".join(sorted(records.features()))) == ("1.0.0", fields)


def test_prepared_examples_are_those_of_the_files_in_their_order(small, data_dir):
    assert prepared.is_prepared("babi/en", data_dir)
    for number, split in itertools.product(FEW, SPLITS):
        expected = archive.read(small, number, split, f"babi_qa{number}", "en")
        assert prepared.read("babi/en", data_dir, f"qa{number}_{split}") == expected
        assert [example.example_id for example in expected] == [
            f"babi_qa{number}/{split}/{index}" for index in range(len(expected))
        ]


def test_tfds_loads_them_by_name(small, data_dir):
    rows = list(tfds.as_numpy(tfds.load("babi/en", data_dir=data_dir, split="qa2_test")))
    story = next(format.parse((small / "en" / "qa2_two-supporting-facts_test.txt").open("rb"), ""))
    assert rows[0]["question"].decode() == story.questions()[0].text
    assert rows[0]["answer"].decode() == story.questions()[0].answer


def test_info_is_complete(data_dir):
    info = tfds.builder("babi/en", data_dir=data_dir).info
    assert "Weston et al. 2015" in info.description
    assert "1502.05698" in info.citation
    assert info.redistribution_info.license == "CC BY 3.0"
    assert info.disable_shuffling
    assert list(info.splits) == [f"qa{number}_{split}" for number in FEW for split in SPLITS]


def test_what_is_not_prepared_is_named_with_its_mend(data_dir, tmp_path):
    command = f"tfds build babi/hn --imports=cd_jax.tasks.babi.babi_dataset_builder --data_dir={tmp_path}"
    with pytest.raises(RequestError) as error:
        prepared.read("babi/hn", tmp_path, "qa1_train")
    assert str(error.value) == f"{tmp_path}/babi/hn/1.0.0: not prepared; run `{command}`"
    assert not prepared.is_prepared("babi/hn", tmp_path)
    with pytest.raises(RequestError, match="babi/en/1.0.0: no split 'qa21_train'; choose one of qa1_train, "):
        prepared.read("babi/en", data_dir, "qa21_train")


@pytest.mark.skipif(
    not (importlib.util.find_spec("apache_beam") and importlib.util.find_spec("mlcroissant")),
    reason="TFDS' command needs apache-beam and mlcroissant: pip install 'cd_jax[tfds]'",
)
def test_the_mend_mends(tmp_path):
    with pytest.raises(RequestError) as error:
        prepared.read("com2sense/pairs", tmp_path, "train")
    tfds_command, *arguments = shlex.split(str(error.value).split("`")[1])
    assert tfds_command == "tfds"
    subprocess.run([sys.executable, "-m", "tensorflow_datasets.scripts.cli.main", *arguments], check=True)
    assert prepared.read("com2sense/pairs", tmp_path, "train") == pairs.read("train", "com2sense")


def test_a_damaged_file_is_named_as_the_parser_names_it(small, tmp_path):
    folder = tmp_path / "en"
    folder.mkdir()
    for path in (small / "en").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    damaged = folder / "qa1_single-supporting-fact_test.txt"
    first, _, rest = damaged.read_text().partition("\n")
    damaged.write_text(f"{first}\n7{rest}")
    with pytest.raises(RequestError) as error:
        prepare(babi_dataset_builder.Builder(config="en", data_dir=tmp_path / "data"), folder)
    assert str(error.value).startswith(f"{damaged}:2: id 72 out of order; ")
    assert "\n" not in str(error.value)
    assert not prepared.is_prepared("babi/en", tmp_path / "data")


@pytest.mark.parametrize("manual", ["none", "empty", "another layout"])
def test_without_a_copy_it_is_downloaded(manual, small, tmp_path, monkeypatch):
    def lost(manager, urls):
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", lost)
    (tmp_path / "empty").mkdir()
    folder = {"none": None, "empty": tmp_path / "empty", "another layout": small}[manual]
    with pytest.raises(RequestError, match=r"https://\S+/babi.tar.gz: cannot be downloaded \(ConnectionError\); give "):
        prepare(babi_dataset_builder.Builder(config="hn", data_dir=tmp_path / "data"), folder)


def test_the_archive_itself_is_unpacked_if_it_is_the_released_one(small, tmp_path, monkeypatch):
    manual = tmp_path / "manual"
    manual.mkdir()
    with tarfile.open(manual / "babi.tar.gz", "w:gz") as tar:
        tar.add(small, small.name)
    builder = babi_dataset_builder.Builder(config="en", data_dir=tmp_path / "data")
    with pytest.raises(RequestError, match="is not the file that it was"):
        prepare(builder, manual)
    known = tfds.download.checksums.compute_url_info(manual / "babi.tar.gz")
    infos = {babi_dataset_builder.URL: dataclasses.replace(known, filename="babi.tar.gz")}
    monkeypatch.setattr(babi_dataset_builder.Builder, "url_infos", infos)
    monkeypatch.setattr(archive, "TASK_NAMES", FEW)
    prepare(builder, manual)
    expected = archive.read(small, 20, "test", "babi_qa20", "en")
    assert prepared.read("babi/en", tmp_path / "data", "qa20_test") == expected


def test_there_is_a_configuration_for_every_layout_and_shift():
    names = [config.name for config in babi_dataset_builder.Builder.BUILDER_CONFIGS]
    assert names == [*archive.LAYOUTS, "worlds", *(f"worlds_{shift}" for shift in shifts.SHIFTS)]


@pytest.mark.parametrize("config", ["worlds", "worlds_places"])
def test_worlds_need_no_files(config, tmp_path):
    builder = babi_dataset_builder.Builder(config=config, data_dir=tmp_path)
    numbers = list(WORLDS) if config == "worlds" else shifts.worlds_of("places")
    assert list(builder.builder_config.numbers) == numbers
    splits = builder._split_generators(None)
    assert list(splits) == [f"qa{number}_{split}" for number in numbers for split in SPLITS]
    number = numbers[-1]
    task = f"babi_qa{number}" if config == "worlds" else f"babi_qa{number}_places"
    setting = generate.RELEASED if config == "worlds" else shifts.SHIFTS["places"]
    expected = generate.read(number, "validation", task, 100, setting)
    assert list(splits[f"qa{number}_validation"]) == as_written(enumerate(expected))


@needs_babi
@pytest.mark.parametrize("layout", ["en", "en-valid"])
def test_original_babi(layout, tmp_path):
    builder = babi_dataset_builder.Builder(config=layout, data_dir=tmp_path)
    splits = generated(builder, BABI_DIR)
    for number, split in itertools.product((1, 8, 20), SPLITS):
        expected = archive.read(BABI_DIR, number, split, f"babi_qa{number}", layout)
        assert splits[f"qa{number}_{split}"] == as_written(enumerate(expected))
    assert [len(splits[f"qa{number}_test"]) for number in archive.TASK_NAMES] == [1000] * 20


def test_pairs_need_no_files(tmp_path):
    splits = generated(com2sense_dataset_builder.Builder(config="pairs", data_dir=tmp_path), None)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 160, "validation": 30, "test": 50}
    assert splits["test"] == as_written(enumerate(pairs.read("test", "com2sense")))


@needs_com2sense
def test_original_com2sense(tmp_path):
    splits = generated(com2sense_dataset_builder.Builder(config="original", data_dir=tmp_path), COM2SENSE_DIR)
    assert list(splits) == [*SPLITS, "unlabelled"]
    for split, rows in splits.items():
        assert rows == as_written(enumerate(reader.read(COM2SENSE_DIR, split, "com2sense")))


@needs_com2sense
def test_downloaded_com2sense_is_the_original(tmp_path, monkeypatch):
    def download(manager, urls):
        assert {name: url.rpartition("/")[2] for name, url in urls.items()} == {name: name for name in urls}
        paths = {name: tfds.core.Path(tmp_path / f"{index}.json") for index, name in enumerate(urls)}
        for name, path in paths.items():
            path.write_bytes((COM2SENSE_DIR / name).read_bytes())
        return paths

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", download)
    prepare(com2sense_dataset_builder.Builder(config="original", data_dir=tmp_path / "data"), max_examples_per_split=7)
    expected = reader.read(COM2SENSE_DIR, "validation", "com2sense")[:7]
    assert prepared.read("com2sense/original", tmp_path / "data", "validation") == expected


@needs_com2sense
def test_checksums_are_those_of_the_original_files():
    infos = com2sense_dataset_builder.Builder.url_infos
    for name in com2sense_dataset_builder.FILES:
        info, data = infos[f"{com2sense_dataset_builder.URL}/{name}"], (COM2SENSE_DIR / name).read_bytes()
        assert (info.size, info.checksum, info.filename) == (len(data), hashlib.sha256(data).hexdigest(), name)
    assert len(infos) == 6


def test_the_archive_has_a_checksum():
    assert list(babi_dataset_builder.Builder.url_infos) == [babi_dataset_builder.URL]
