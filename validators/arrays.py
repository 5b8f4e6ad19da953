"""Columns of integers, thousands of rows at a time.

One row of arrays costs the client nothing, where a row of the result for each of them
would cost a microsecond and more.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray
from psycopg import pq
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader

Integers = NDArray[np.int64]

# Binary form of an array (src/backend/utils/adt/arrayfuncs.c, array_send): dimensions, whether
# there are NULLs, the element's type, then for the only dimension its size and lower bound;
# then the elements, each after its length.
_HEAD: Final = struct.Struct(">iiIii")
_ELEMENT: Final = np.dtype([("length", ">i4"), ("value", ">i8")])
_INT8: Final = 20  # pg_type.oid, as in src/include/catalog/pg_type.dat
_INT8_ARRAY: Final = 1016


class Int8ArrayLoader(Loader):
    """int8[] in binary form, as numpy knows it."""

    format = pq.Format.BINARY

    def load(self, data: Buffer) -> Integers:
        """All elements; ValueError unless each is an int8."""
        raw = bytes(data)
        if len(raw) < _HEAD.size:
            return np.empty(0, np.int64)
        dimensions, nulls, type_, size, _ = _HEAD.unpack_from(raw)
        elements = np.frombuffer(raw, _ELEMENT, offset=_HEAD.size)
        # An int4 that is read as an int8 would shift everything after it.
        if (dimensions, nulls, type_, size) != (1, 0, _INT8, len(elements)):
            raise ValueError(f"not an array of int8: {(dimensions, nulls, type_, size)}")
        if not (elements["length"] == 8).all():
            raise ValueError("an element of an array of int8 has another length")
        return elements["value"].astype(np.int64)


def load_arrays(context: AdaptContext) -> None:
    """Make a cursor or connection give int8[] as numpy arrays."""
    context.adapters.register_loader(_INT8_ARRAY, Int8ArrayLoader)
