"""Columns of integers, thousands of rows at a time.

One row of arrays costs the client nothing, where a row of the result for each of them
would cost a microsecond and more.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from psycopg import pq
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]

# Binary form of an array (src/backend/utils/adt/arrayfuncs.c, array_send): dimensions, whether
# there are NULLs, the element's type, then for the only dimension its size and lower bound;
# then the elements, each after its length.
_HEAD: Final = struct.Struct(">iiIii")
_ELEMENT: Final = struct.Struct(">iq")
_INT8: Final = 20  # pg_type.oid, as in src/include/catalog/pg_type.dat
_INT8_ARRAY: Final = 1016


@dataclass(frozen=True, slots=True)
class Packed:
    """An int8[] as a server sent it: equal bytes are equal numbers, and nearly all are equal."""

    raw: bytes = b""

    def numbers(self) -> list[int]:
        """All elements."""
        return [number for _, number in _ELEMENT.iter_unpack(self._elements())]

    def integers(self) -> Integers:
        """All elements, as numpy knows them."""
        import numpy as np  # takes longer to load than most tables to compare

        elements = np.frombuffer(self._elements(), [("length", ">i4"), ("value", ">i8")])
        return elements["value"].astype(np.int64)

    def _elements(self) -> bytes:
        """The elements alone; ValueError unless each is an int8."""
        if len(self.raw) < _HEAD.size:
            return b""
        dimensions, nulls, type_, size, _ = _HEAD.unpack_from(self.raw)
        elements = self.raw[_HEAD.size :]
        # An int4 that is read as an int8 would shift everything after it.
        if (dimensions, nulls, type_) != (1, 0, _INT8) or len(elements) != size * _ELEMENT.size:
            raise ValueError(f"not an array of int8: {(dimensions, nulls, type_, size)}")
        return elements


NOTHING: Final = Packed()


def packed(numbers: Sequence[int]) -> Packed:
    """The numbers as a server would send them."""
    if not numbers:
        return NOTHING
    head = _HEAD.pack(1, 0, _INT8, len(numbers), 1)
    return Packed(head + b"".join(_ELEMENT.pack(8, number) for number in numbers))


class _Int8ArrayLoader(Loader):
    """int8[] in binary form, left as it is."""

    format = pq.Format.BINARY

    def load(self, data: Buffer) -> Packed:
        return Packed(bytes(data))


def load_arrays(context: AdaptContext) -> None:
    """Make a cursor or connection give int8[] as `Packed`."""
    context.adapters.register_loader(_INT8_ARRAY, _Int8ArrayLoader)
