"""Snappy's blocks, in which TensorFlow may compress the index of a bundle, which is small; tensors are never."""

_LONGEST = 1 << 26  # bytes; an index has thousands


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, and where it ends. Raises ValueError or IndexError where there is none."""
    value = 0
    for place in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << place
        if byte < 128:
            return value, at
    raise ValueError("a number is too long")


def decompress(data: bytes) -> bytes:
    """What was compressed.

    Raises:
      ValueError: the data are damaged.
      IndexError: they are cut off.
    """
    size, at = varint(data, 0)
    if size > _LONGEST:
        raise ValueError("a compressed block is too large")
    found = bytearray()
    while at < len(data):
        length, distance, at = _element(data, at)
        if distance is None:
            found += data[at : at + length]
            at += length
        elif not 0 < distance <= len(found) or len(found) + length > size:
            raise ValueError("a compressed block is damaged")
        else:
            # A copy may reach into what it writes.
            repeated = found[-distance:] * (length // distance + 1)
            found += repeated[:length]
    if len(found) != size:
        raise ValueError("a compressed block is damaged")
    return bytes(found)


def _element(data: bytes, at: int) -> tuple[int, int | None, int]:
    """Length, the distance back of a copy (None for bytes that follow), and where the element's own bytes end."""
    tag, at = data[at], at + 1
    kind, upper = tag & 3, tag >> 2
    if kind == 0:
        more = max(upper - 59, 0)  # bytes that give the length
        return (int.from_bytes(data[at : at + more], "little") if more else upper) + 1, None, at + more
    if kind == 1:
        return (upper & 7) + 4, upper >> 3 << 8 | data[at], at + 1
    width = 2 if kind == 2 else 4
    return upper + 1, int.from_bytes(data[at : at + width], "little"), at + width
