# SPDX-License-Identifier: Apache-2.0
"""Cases as data: a YAML list of mappings whose `documents` are policy documents, read as a user's file would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dfw.documents import Document, documents_parse


def cases_read(file: Path) -> list[dict[str, Any]]:
    """The cases of a file, their documents with places."""
    (document,) = documents_parse(file.read_bytes(), file.name)
    cases: list[dict[str, Any]] = []
    for node in document.root.value:  # type: ignore[union-attr]
        case: dict[str, Any] = node.plain()  # type: ignore[union-attr]
        case["documents"] = [Document(file.name, item) for item in node.value["documents"].value]  # type: ignore[union-attr, call-overload, index]
        cases.append(case)
    return cases
