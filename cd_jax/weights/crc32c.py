"""The checksum CRC-32C of large data at NumPy's speed; no library that we depend on has it for Python.

A cyclic redundancy check is linear: data are cut into parts of one length, the registers of all parts are computed at
once, two bytes a step, and joined by the map that reading a part of zeros is.
"""

import functools

import numpy as np

_POLYNOMIAL = np.uint32(0x82F63B78)
_PART = 1024  # bytes
_PARTS = 4096  # at once, so that they stay in a processor's cache


def _shifted(register: np.ndarray) -> np.ndarray:
    """After one bit of zero."""
    return (register >> 1) ^ np.where(register & 1, _POLYNOMIAL, np.uint32(0))


@functools.cache
def _table() -> np.ndarray:
    """What two bytes `[65536]` become."""
    table = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        table = _shifted(table)
    return table


def _registers(parts: np.ndarray, register: np.ndarray) -> np.ndarray:
    """The registers `[parts]` after pairs of bytes, uint16 `[parts, pairs]`."""
    table = _table()
    for pairs in np.ascontiguousarray(parts.T):
        register = table[(register ^ pairs) & 0xFFFF] ^ (register >> 16)
    return register


@functools.cache
def _past_part() -> list[list[int]]:
    """For each byte of a register what it becomes after a part of zeros; the four are joined by exclusive or."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    bits = _registers(np.zeros((32, _PART // 2), np.uint16), bits)
    byte = np.arange(256)[:, None] >> np.arange(8) & 1
    columns = [np.where(byte, bits[8 * place : 8 * place + 8], 0) for place in range(4)]
    return [np.bitwise_xor.reduce(column, axis=1).tolist() for column in columns]


def _joined(register: int, parts: np.ndarray) -> int:
    first, second, third, fourth = _past_part()
    for part in _registers(parts, np.zeros(len(parts), np.uint32)).tolist():
        past = first[register & 255] ^ second[register >> 8 & 255] ^ third[register >> 16 & 255]
        register = past ^ fourth[register >> 24] ^ part
    return register


def crc32c(data: bytes | memoryview) -> int:
    """The checksum of data: iSCSI's polynomial (RFC 3720)."""
    register = 0xFFFFFFFF
    whole = len(data) // _PART * _PART
    parts = np.frombuffer(data, "<u2", whole // 2).reshape(-1, _PART // 2)
    for start in range(0, len(parts), _PARTS):
        register = _joined(register, parts[start : start + _PARTS])
    for byte in bytes(data[whole:]):
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def masked(checksum: int) -> int:
    """As TensorFlow and LevelDB store it beside the data that it is of."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
