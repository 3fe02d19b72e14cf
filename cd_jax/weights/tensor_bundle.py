"""TensorFlow's tensor bundles, which variables of a SavedModel and checkpoints are, read without TensorFlow.

`PREFIX.index` is a sorted table of LevelDB's kind: blocks of keys and values, an index of blocks, a footer. The empty
key has the header, every other one is a tensor's name and says where in `PREFIX.data-00000-of-00001` its bytes are.
"""

import dataclasses
import functools
import os
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from cd_jax.errors import RequestError
from cd_jax.rundir import files
from cd_jax.weights import crc32c, snappy

_MEND = "copy it again, whole"
_FOOTER, _MAGIC = 48, 0xDB4775248B80FB57
_PLAIN, _SNAPPY = 0, 1
_TRAILER = 5  # bytes after a block: how it is compressed, its checksum
# Of tensorflow/core/framework/types.proto.
_DTYPES = {1: np.float32, 2: np.float64, 3: np.int32, 9: np.int64, 14: ml_dtypes.bfloat16, 19: np.float16}


# Messages


@functools.cache
def _messages() -> dict[str, Any]:
    """Those of tensorflow/core/protobuf/tensor_bundle.proto that are needed, in a pool of their own.

    TensorFlow has the same names in the default pool, where it is imported.
    """
    described = descriptor_pb2.FileDescriptorProto(name="bundle.proto", package="bundle", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    int32, int64, fixed32 = kinds.TYPE_INT32, kinds.TYPE_INT64, kinds.TYPE_FIXED32
    _add(described, "Dim", size=(1, int64))
    _add(described, "Shape", dim=(2, "Dim"))
    _add(described, "Header", num_shards=(1, int32), endianness=(2, int32))
    _add(
        described, "Entry", dtype=(1, int32), shape=(2, "Shape"), shard_id=(3, int32), offset=(4, int64),
        size=(5, int64), crc32c=(6, fixed32), slices=(7, "Shape"),
    )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(described)
    names = [kind.name for kind in described.message_type]
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"bundle.{name}")) for name in names}


def _add(described: Any, name: str, **fields: tuple[int, Any]) -> None:
    kind = described.message_type.add(name=name)
    for field, (number, of) in fields.items():
        added = kind.field.add(name=field, number=number, label=1)
        if isinstance(of, str):
            added.type, added.type_name = added.TYPE_MESSAGE, f".bundle.{of}"
            added.label = added.LABEL_OPTIONAL if of == "Shape" and field == "shape" else added.LABEL_REPEATED
        else:
            added.type = of


def _parse(kind: str, content: bytes) -> Any:
    try:
        return _messages()[kind].FromString(content)
    except message.DecodeError as error:
        raise ValueError("an entry is no protocol buffer") from error


# The table


def _handle(data: bytes, at: int = 0) -> tuple[int, int, int]:
    """Offset and size of a block, and where the handle ends."""
    offset, at = snappy.varint(data, at)
    size, at = snappy.varint(data, at)
    return offset, size, at


def _block(table: bytes, offset: int, size: int) -> bytes:
    content, trailer = table[offset : offset + size], table[offset + size : offset + size + _TRAILER]
    if len(trailer) < _TRAILER:
        raise ValueError("a block is cut off")
    kind, checksum = struct.unpack("<BI", trailer)
    if crc32c.masked(crc32c.crc32c(content + trailer[:1])) != checksum:
        raise ValueError("the checksum of a block is wrong")
    if kind not in (_PLAIN, _SNAPPY):
        raise ValueError(f"a block is compressed in a way (number {kind}) that is not read here")
    return snappy.decompress(content) if kind == _SNAPPY else content


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys, of which each shares a prefix with the one before it, and values."""
    (restarts,) = struct.unpack_from("<I", block, len(block) - 4)
    end = len(block) - 4 * (restarts + 1)
    key, at = b"", 0
    while at < end:
        shared, at = snappy.varint(block, at)
        added, at = snappy.varint(block, at)
        size, at = snappy.varint(block, at)
        if at + added + size > end or shared > len(key):
            raise ValueError("an entry goes beyond its block")
        key = key[:shared] + block[at : at + added]
        yield key, block[at + added : at + added + size]
        at += added + size


def _table(content: bytes) -> dict[bytes, bytes]:
    """All keys and values. Raises ValueError, IndexError or struct.error where it is damaged."""
    footer = content[-_FOOTER:]
    if len(footer) < _FOOTER or struct.unpack_from("<Q", footer, _FOOTER - 8)[0] != _MAGIC:
        raise ValueError("its last bytes are not a table's")
    *_, at = _handle(footer)
    offset, size, _ = _handle(footer, at)
    found: dict[bytes, bytes] = {}
    for _, value in _entries(_block(content, offset, size)):
        found.update(_entries(_block(content, *_handle(value)[:2])))
    return found


# The bundle


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a tensor is.

    Attributes:
      shape: its own.
      dtype: NumPy's.
      file: that holds it.
      offset: of its first byte there.
      checksum: of its bytes, masked.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    file: pathlib.Path
    offset: int
    checksum: int

    @property
    def size(self) -> int:
        """In bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class TensorBundle:
    """The tensors of a bundle by their names; each is read when it is asked for.

    Attributes:
      index: the file that lists them.
      entries: where each of them is.
    """

    def __init__(self, prefix: str | os.PathLike):
        """Reads the index.

        Args:
          prefix: of the files' names, such as `DIR/variables/variables`.

        Raises:
          RequestError: there is no index, or it is damaged or of a kind that is not read here.
        """
        self.index = pathlib.Path(f"{os.fspath(prefix)}.index")
        content = files.read_bytes(self.index, "it lists the variables: copy it, too")
        try:
            table = _table(content)
            header = _parse("Header", table.pop(b""))
            if header.endianness or header.num_shards < 1:
                raise ValueError("it is big-endian or of no files")
            named = {key.decode("utf-8", "backslashreplace"): _parse("Entry", value) for key, value in table.items()}
            _check_whole(named)
            files_of = [pathlib.Path(_data_file(prefix, i, header.num_shards)) for i in range(header.num_shards)]
            self.entries = {name: _entry(name, entry, files_of) for name, entry in named.items()}
        except KeyError as error:
            raise RequestError(f"{self.index}: has no header; {_MEND}") from error
        except (ValueError, IndexError, struct.error, MemoryError, OverflowError) as error:
            said = str(error) if isinstance(error, ValueError) else "cut off"
            raise RequestError(f"{self.index}: no index of TensorFlow variables ({said}); {_MEND}") from error

    def read(self, name: str) -> np.ndarray:
        """A tensor.

        Args:
          name: a key of `entries`.

        Raises:
          RequestError: its file is missing, cut off or damaged.
        """
        entry = self.entries[name]
        try:
            with entry.file.open("rb") as file:
                file.seek(entry.offset)
                content = file.read(entry.size)
        except OSError as error:
            said = f"{self.index.name} says that {name} is there"
            raise RequestError(f"{entry.file}: cannot be read ({files.said(error)}); {said}: copy it, too") from error
        if len(content) < entry.size:
            raise RequestError(f"{entry.file}: ends within the variable {name}; {_MEND}")
        if crc32c.masked(crc32c.crc32c(content)) != entry.checksum:
            raise RequestError(f"{entry.file}: the checksum of the variable {name} is wrong; {_MEND}")
        return np.frombuffer(content, entry.dtype).reshape(entry.shape)


def _data_file(prefix: str | os.PathLike, shard: int, shards: int) -> str:
    return f"{os.fspath(prefix)}.data-{shard:05d}-of-{shards:05d}"


def _check_whole(named: dict[str, Any]) -> None:
    """Raises ValueError where a variable is in slices, which are entries of other names."""
    for name, entry in named.items():
        if entry.slices:
            raise ValueError(f"{name[:200]!r} is partitioned: save it in one piece")


def _entry(name: str, entry: Any, files_of: list[pathlib.Path]) -> Entry:
    if not name.isprintable():
        raise ValueError(f"a variable is named {name[:80]!r}")
    if entry.dtype not in _DTYPES:
        raise ValueError(f"{name} is of a type (number {entry.dtype}) that is not read here")
    if not 0 <= entry.shard_id < len(files_of) or entry.offset < 0:
        raise ValueError(f"{name} is in no file")
    shape = tuple(dim.size for dim in entry.shape.dim)
    made = Entry(shape, np.dtype(_DTYPES[entry.dtype]), files_of[entry.shard_id], entry.offset, entry.crc32c)
    if any(size < 0 for size in shape) or made.size != entry.size:
        raise ValueError(f"{name} has {entry.size} bytes, which {list(shape)} of {made.dtype} are not")
    return made
