# SPDX-License-Identifier: Apache-2.0
"""The one module that imports the compiled core: its functions, its words, and how arrays cross."""

from __future__ import annotations

from typing import Any, Final

import _palisade_core
import numpy as np
import numpy.typing as npt

ffi: Final[Any] = _palisade_core.ffi
lib: Final[Any] = _palisade_core.lib

ERROR_BYTES: Final = 512
NO_FILTER: Final = 0xFFFF
NO_RULE: Final = 0xFFFFFFFF


class CoreError(RuntimeError):
    """The core refused: the message is its sentence."""


def build_info() -> dict[str, str]:
    """What the core was built with: `compiler`, `target`, and `layout`, a hash of the declarations shared with C."""
    return {
        "compiler": text(lib.pal_build_compiler()),
        "target": text(lib.pal_build_target()),
        "layout": text(lib.pal_build_layout()),
    }


def text(pointer: Any) -> str:
    return str(ffi.string(pointer).decode())


def words(function: Any, *arguments: int) -> tuple[str, ...]:
    found: list[str] = []
    while (pointer := function(*arguments, len(found))) != ffi.NULL:
        found.append(text(pointer))
    return tuple(found)


REASONS: Final = words(lib.pal_word_reason)
"""Log words of reasons.def, by number."""
REASONS_NSX: Final = words(lib.pal_word_reason_nsx)
REASON_TEXTS: Final = words(lib.pal_word_reason_text)
VERDICTS: Final = words(lib.pal_word_verdict)
CTS: Final = words(lib.pal_word_ct)


def array(array: npt.NDArray[Any], kind: str) -> Any:
    """A C pointer to an array's items; the array must outlive the call."""
    if not array.flags.c_contiguous:
        raise ValueError("the core takes contiguous arrays")
    return ffi.cast(kind, ffi.from_buffer(array)) if array.size else ffi.cast(kind, 0)


def copied(pointer: Any, count: int, dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    if count == 0:
        return np.zeros(0, dtype=dtype)
    return np.frombuffer(ffi.buffer(pointer, count * dtype.itemsize), dtype=dtype).copy()
