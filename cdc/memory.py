"""How a process is to treat memory that goes through much of it."""

from __future__ import annotations

import ctypes
import gc
from typing import Final

_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
"""mallopt(3), and malloc.h of the GNU C library."""

_KEPT_BYTES = 1 << 26
_NEW_OBJECTS: Final = 50_000  # Python's own is 700


def keep_freed() -> None:
    """Have large pieces taken from what was freed, not from the system each time.

    The blocks of a stream are of some megabytes.  By default each is mapped anew, and to
    fill a page for the first time costs several times what is done with its bytes.  All
    threads share one pool, so that what one frees serves the next.  Call it before there
    are others.  A C library that knows no mallopt is left as it is.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_ARENA_MAX, 1)
    mallopt(_MMAP_THRESHOLD, _KEPT_BYTES // 2)
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_TOP_PAD, 1 << 22)


def collect_seldom() -> None:
    """Have Python look for cycles after many more objects than it does by itself.

    The messages of a batch are thousands of objects that live until it is applied, and
    none of them is in a cycle: to look through them again and again is a tenth of what
    a stream of wide rows costs its process.  Call it when what stays is loaded.
    """
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])
