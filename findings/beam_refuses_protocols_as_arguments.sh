#!/usr/bin/env bash
# apache-beam 2.77.0: a function that is given to `beam.Map` with an argument beside the element, whose annotation is a
# sequence of a `typing.Protocol`, makes the building of the pipeline fail where the argument holds an instance of a class that
# satisfies the protocol. Beam checks arguments against annotations with `issubclass`, which Python refuses for a protocol that
# is not `runtime_checkable`. The same function bound with `functools.partial` runs, as does one whose annotation is the class.
#
# Seen:
#   protocol as argument: TypeError: Instance and class checks can only be used with @runtime_checkable protocols
#   class as argument: [2, 3]
#   protocol, bound by partial: [2, 3]
#
# Exit status 0 while this is so, 1 once it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet apache-beam==2.77.0
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import functools
from collections.abc import Sequence
from typing import Protocol

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to


class Step(Protocol):
    def add(self, value: int) -> int: ...


class One:
    def add(self, value: int) -> int:
        return value + 1


def by_protocol(value: int, steps: Sequence[Step]) -> int:
    return steps[0].add(value)


def by_class(value: int, steps: Sequence[One]) -> int:
    return steps[0].add(value)


def seen(make):
    try:
        with beam.Pipeline() as pipeline:
            assert_that(pipeline | beam.Create([1, 2]) | make(), equal_to([2, 3]))
        return "[2, 3]"
    except TypeError as error:
        return f"TypeError: {str(error).splitlines()[0]}"


found = [
    f"protocol as argument: {seen(lambda: beam.Map(by_protocol, (One(),)))}",
    f"class as argument: {seen(lambda: beam.Map(by_class, (One(),)))}",
    f"protocol, bound by partial: {seen(lambda: beam.Map(functools.partial(by_protocol, steps=(One(),))))}",
]
print(beam.__version__, *found, sep="\n")
assert found == [
    "protocol as argument: TypeError: Instance and class checks can only be used with @runtime_checkable protocols",
    "class as argument: [2, 3]",
    "protocol, bound by partial: [2, 3]",
], "changed"
PYTHON
