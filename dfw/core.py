# SPDX-License-Identifier: Apache-2.0
"""The packet core, as Python sees it. This is the only module that imports `_palisade_core`.

A call crosses once a batch, never once a packet; what C declares is native/include/palisade_core.h.
"""

from __future__ import annotations

from typing import Any, Final

import _palisade_core

ffi: Final[Any] = _palisade_core.ffi
lib: Final[Any] = _palisade_core.lib


def build_info() -> dict[str, str]:
    """What the core was built with: `compiler`, `target`, and `layout`, a hash of the declarations shared with C."""

    def text(pointer: Any) -> str:
        return str(ffi.string(pointer).decode())

    return {
        "compiler": text(lib.pal_build_compiler()),
        "target": text(lib.pal_build_target()),
        "layout": text(lib.pal_build_layout()),
    }
