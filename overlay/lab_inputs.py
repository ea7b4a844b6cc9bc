# SPDX-License-Identifier: Apache-2.0
"""What a lab is made from: files with their contents, read, copied into the lab's directory, and found again there."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final, NamedTuple

from dfw.documents import STDIN, Document, Node, documents_parse, documents_read
from dfw.errors import PolicyError, Problem
from dfw.inventory import INVENTORY_KINDS
from dfw.load import load_documents
from dfw.model import PolicySet
from overlay.lab_plan import intent_hash, lab_world
from overlay.lab_record import InputRecord, LabPaths, LabRecord
from overlay.pod import PodSpec
from overlay.pod_spec import pod_specs

_WORKLOADS: Final = frozenset((*INVENTORY_KINDS, "Pod", "Namespace"))


class InputFile(NamedTuple):
    """A file. `workloads_only`: only what it says of hosts, networks and workloads counts, not its policies."""

    file: str
    data: bytes
    workloads_only: bool = False


class Inputs(NamedTuple):
    """What a lab is made from: files with their contents, and what they say."""

    files: tuple[InputFile, ...]
    world: PolicySet
    specs: dict[str, PodSpec]
    intent: str


@contextmanager
def example_files() -> Iterator[tuple[str, ...]]:
    """The built-in example: an inventory and one policy of its own, and the policy of examples/shop."""
    with (
        as_file(files("overlay") / "example" / "inventory.yaml") as inventory,
        as_file(files("overlay") / "example" / "neighbours.yaml") as neighbours,
        as_file(files("dfw") / "example" / "policy.yaml") as policy,
    ):
        yield str(inventory), str(neighbours), str(policy)


def inputs_read(names: Sequence[str]) -> Inputs:
    """Read files (`-`: standard input; none: the built-in example). Raises PolicyError."""
    if not names:
        with example_files() as found:
            return inputs_read(found)
    return inputs_parse(contents_read(names))


def contents_read(names: Sequence[str]) -> list[InputFile]:
    """Files as bytes. Raises PolicyError with everything that cannot be read."""
    contents = []
    problems: list[Problem] = []
    for name in dict.fromkeys(names):
        try:
            contents.append(InputFile(name, sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()))
        except OSError:
            try:
                documents_read([name])  # says in the house's words why it cannot be read
            except PolicyError as error:
                problems += error.problems
    if problems:
        raise PolicyError(problems)
    return contents


def inputs_parse(contents: Sequence[InputFile]) -> Inputs:
    """What the contents of files say. Raises PolicyError."""
    documents = _documents(contents)
    world = lab_world(load_documents(documents).world)
    absolute = tuple(
        item if item.file == STDIN else item._replace(file=str(Path(item.file).absolute())) for item in contents
    )
    marked = [(f"{item.file}\0workloads" if item.workloads_only else item.file, item.data) for item in absolute]
    return Inputs(absolute, world, pod_specs(documents), intent_hash(marked))


def inputs_over(names: Sequence[str], kept: Sequence[InputFile]) -> Inputs:
    """What files say over what a lab was made from before (`kept`): they are its policy, whole.

    Where they say nothing of hosts, networks and workloads, those stay as they are. Raises PolicyError.
    """
    contents = contents_read(names)
    if any(True for _ in _of_workloads(_documents(contents))):
        return inputs_parse(contents)
    staying = []
    for item in kept:
        documents = _documents([item])
        workloads = list(_of_workloads(documents))
        if workloads:
            staying.append(item._replace(workloads_only=item.workloads_only or workloads != documents))
    return inputs_parse([*staying, *contents])


def _documents(contents: Sequence[InputFile]) -> list[Document]:
    documents: list[Document] = []
    problems: list[Problem] = []
    for item in contents:
        try:
            found = documents_parse(item.data, item.file)
            documents += _of_workloads(found) if item.workloads_only else found
        except PolicyError as error:
            problems += error.problems
    if problems:
        raise PolicyError(problems)
    return documents


def _of_workloads(documents: Sequence[Document]) -> Iterator[Document]:
    """Hosts, networks and workloads among these; of lists (`kind: List`) the items that are such."""
    for document in documents:
        kind, items = document.root.get("kind"), document.root.get("items")
        word = kind.value if kind is not None and isinstance(kind.value, str) else ""
        if word == "List" and items is not None and isinstance(items.value, list):
            yield from _of_workloads([Document(document.file, item) for item in items.value if _is_mapping(item)])
        elif word.removesuffix("List") in _WORKLOADS or word in _WORKLOADS:
            yield document


def _is_mapping(node: Node) -> bool:
    return isinstance(node.value, dict)


def inputs_kept(paths: LabPaths, record: LabRecord) -> Inputs:
    """What the lab was last made from, from its own copies. Raises PolicyError, OSError."""
    return inputs_parse(contents_kept(paths, record))


def contents_kept(paths: LabPaths, record: LabRecord) -> list[InputFile]:
    """The lab's own copies. Raises OSError."""
    return [
        InputFile(item.file, (paths.inputs / item.copy).read_bytes(), item.workloads_only) for item in record.inputs
    ]


def inputs_keep(paths: LabPaths, record: LabRecord, inputs: Inputs) -> None:
    """Copy what the lab is made from into its directory."""
    paths.inputs.mkdir(exist_ok=True)
    record.inputs = []
    for number, item in enumerate(inputs.files):
        copy = f"{number}-{'stdin.yaml' if item.file == STDIN else Path(item.file).name}"
        (paths.inputs / copy).write_bytes(item.data)
        record.inputs.append(InputRecord(item.file, copy, item.workloads_only))
