"""Tests of the reader of TensorFlow's bundles, against bundles that TensorFlow writes."""

import pathlib
import tempfile

import bundles
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cd_jax.errors import RequestError
from cd_jax.weights import crc32c, snappy
from cd_jax.weights.tensor_bundle import TensorBundle
from originals import BLEURT_DIR, needs_bleurt

DTYPES = (np.float32, np.float64, np.float16, np.int32, np.int64)


def refused(prefix: pathlib.Path, name: str = "") -> str:
    with pytest.raises(RequestError) as error:
        TensorBundle(prefix).read(name)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def assert_holds(prefix: pathlib.Path, expected) -> None:
    bundle = TensorBundle(prefix)
    assert bundle.entries.keys() == expected.keys()
    for name, value in expected.items():
        found = bundle.read(name)
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        assert found.tobytes() == value.tobytes()


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.from_regex(r"[a-zA-Z_/]{1,12}", fullmatch=True),
        st.sampled_from(DTYPES).flatmap(
            lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
        ),
        min_size=1,
    )
)
def test_what_tensorflow_writes_is_read(variables):
    with tempfile.TemporaryDirectory() as folder:
        bundles.save(pathlib.Path(folder, "v"), variables)
        assert_holds(pathlib.Path(folder, "v"), variables)


def test_an_index_of_many_blocks(tmp_path):
    variables = {
        f"bert/encoder/layer_{i}/dense/kernel": np.float32(i) * np.ones((1, 2), np.float32) for i in range(3000)
    }
    bundles.save(tmp_path / "v", variables)
    assert_holds(tmp_path / "v", variables)


def test_bfloat16(tmp_path):
    variables = {"x": np.arange(5).astype(ml_dtypes.bfloat16)}
    bundles.save(tmp_path / "v", variables)
    assert_holds(tmp_path / "v", variables)


def test_several_files(tmp_path):
    import tensorflow as tf

    parts = [{"a/x": np.arange(3.0), "c": np.float32(2)}, {"b": np.ones((2, 3), np.float32)}]
    for number, part in enumerate(parts):
        bundles.save(tmp_path / f"part{number}", part)
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[str(tmp_path / "part0"), str(tmp_path / "part1")], destination_prefix=str(tmp_path / "v")
    )
    assert (tmp_path / "v.data-00001-of-00002").is_file()
    assert_holds(tmp_path / "v", {name: np.asarray(value) for part in parts for name, value in part.items()})
    (tmp_path / "v.data-00001-of-00002").unlink()
    assert "v.data-00001-of-00002: cannot be read" in refused(tmp_path / "v", "b")


@needs_bleurt
def test_the_official_index():
    """It is compressed."""
    import tensorflow as tf

    prefix = BLEURT_DIR / "variables" / "variables"
    reader = tf.train.load_checkpoint(str(prefix))
    entries = TensorBundle(prefix).entries
    assert {name: list(entry.shape) for name, entry in entries.items()} == reader.get_variable_to_shape_map()
    kinds = {name: kind.as_numpy_dtype for name, kind in reader.get_variable_to_dtype_map().items()}
    assert {name: entry.dtype for name, entry in entries.items()} == kinds
    assert len(entries) == 42


# Damages


def saved(tmp_path) -> pathlib.Path:
    bundles.save(tmp_path / "v", {"a": np.arange(600, dtype=np.float32), "b": np.ones(3, np.float32)})
    return tmp_path / "v"


def test_an_index_that_is_cut_off(tmp_path):
    prefix = saved(tmp_path)
    content = (tmp_path / "v.index").read_bytes()
    for size in range(len(content)):
        (tmp_path / "v.index").write_bytes(content[:size])
        assert refused(prefix).startswith(f"{tmp_path / 'v.index'}: no index of TensorFlow variables")


def test_every_byte_of_the_index_counts(tmp_path):
    """Blocks have checksums, the footer is small: what it names must be blocks."""
    prefix = saved(tmp_path)
    content = bytearray((tmp_path / "v.index").read_bytes())
    for at in range(len(content) - 48):
        content[at] ^= 0x55
        (tmp_path / "v.index").write_bytes(content)
        content[at] ^= 0x55
        try:
            TensorBundle(prefix)
        except RequestError:
            continue
        # The block of other indices, which nobody reads.
        assert at >= len(content) - 48 - 40


def test_data_that_is_damaged(tmp_path):
    prefix = saved(tmp_path)
    file = tmp_path / "v.data-00000-of-00001"
    content = file.read_bytes()
    file.write_bytes(content[:2399])
    assert "ends within the variable a" in refused(prefix, "a")
    file.write_bytes(content[:100] + b"?" + content[101:])
    assert "the checksum of the variable a is wrong" in refused(prefix, "a")
    assert np.array_equal(TensorBundle(prefix).read("b"), np.ones(3))


def test_what_is_not_read_is_said(tmp_path):
    import tensorflow as tf

    bundles.save(tmp_path / "v", {"s": np.array(["text"])})
    assert "s is of a type (number 7)" in refused(tmp_path / "v")
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "w"), tensor_names=["p"], shape_and_slices=["4 2 0,2:-"], tensors=[tf.ones((2, 2))]
    )
    assert "'p' is partitioned" in refused(tmp_path / "w")
    assert "no such file" in refused(tmp_path / "none")


# Checksums and compression


def slow_crc32c(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def test_known_checksums():
    """RFC 3720, B.4."""
    assert crc32c.crc32c(b"") == 0
    assert crc32c.crc32c(b"123456789") == 0xE3069283
    assert crc32c.crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c.crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 5000])
def test_checksums_of_long_data(size):
    data = np.random.default_rng(size).bytes(size)
    assert crc32c.crc32c(data) == slow_crc32c(data)


def test_checksums_of_data_beyond_one_pass():
    """The checksum is linear in what is joined: zeros after data, in parts or not."""
    data = np.random.default_rng(0).bytes(5 * 2**20 + 3)
    assert crc32c.crc32c(data) == crc32c.crc32c(memoryview(data)) != crc32c.crc32c(data[:-1])
    changed = bytearray(data)
    changed[3 * 2**20] ^= 1
    assert crc32c.crc32c(bytes(changed)) != crc32c.crc32c(data)


def number(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=400), st.tuples(st.integers(1, 700), st.integers(1, 64)))))
def test_snappy(elements):
    """Literals, and copies of all three kinds, some of which reach into what they write."""
    plain, written = bytearray(), bytearray()
    for element in elements:
        if isinstance(element, bytes):
            plain += element
            size = len(element) - 1
            if size < 60:
                written.append(size << 2)
            else:
                written += bytes([60 << 2, size]) if size < 256 else bytes([61 << 2, size & 255, size >> 8])
            written += element
        elif plain:
            distance, length = min(element[0], len(plain)), element[1]
            for _ in range(length):
                plain.append(plain[-distance])
            if 4 <= length <= 11:
                written += bytes([1 | (length - 4) << 2 | distance >> 8 << 5, distance & 255])
            elif length % 2:
                written += bytes([2 | (length - 1) << 2]) + distance.to_bytes(2, "little")
            else:
                written += bytes([3 | (length - 1) << 2]) + distance.to_bytes(4, "little")
    assert snappy.decompress(number(len(plain)) + bytes(written)) == plain


@pytest.mark.parametrize(
    "data", [b"\x05\x00a", b"\x04\x0d\x01", b"\xff\xff\xff\xff\x0f\x00a", b"", b"\x01\xf0", b"\x80" * 20]
)
def test_damaged_snappy(data):
    with pytest.raises((ValueError, IndexError)):
        snappy.decompress(data)
