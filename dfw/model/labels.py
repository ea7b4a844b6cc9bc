# SPDX-License-Identifier: Apache-2.0
"""Kubernetes label selectors, matched exactly as the API server matches them.

Kubernetes documentation, "Labels and Selectors"; LabelSelector of meta/v1. Nothing of NSX's tag matching applies:
keys and values are compared letter by letter, and there is no limit to the number of requirements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from dfw.model.address import AddressRange
from dfw.model.inventory import Port

if TYPE_CHECKING:
    from dfw.model.policyset import PolicySet


class LabelOperator(Enum):
    """LabelSelectorRequirement.operator."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class LabelRequirement:
    """One requirement. `values` sorted and distinct; empty for EXISTS and DOES_NOT_EXIST."""

    key: str
    operator: LabelOperator
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Does an object with these labels meet it? NOT_IN holds for an object without the key too."""
        match self.operator:
            case LabelOperator.IN:
                return labels.get(self.key) in self.values
            case LabelOperator.NOT_IN:
                return labels.get(self.key) not in self.values
            case LabelOperator.EXISTS:
                return self.key in labels
            case LabelOperator.DOES_NOT_EXIST:
                return self.key not in labels


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All of the requirements; none selects everything. Make it with `label_selector`: equal meaning, equal value."""

    requirements: tuple[LabelRequirement, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Does an object with these labels meet all requirements?"""
        return all(item.holds(labels) for item in self.requirements)

    def __str__(self) -> str:
        """As kubectl writes selectors: `app=web,tier in (a,b),!old`; empty for everything."""
        return ",".join(map(_requirement_text, self.requirements))


def _requirement_text(item: LabelRequirement) -> str:
    match item.operator:
        case LabelOperator.EXISTS:
            return item.key
        case LabelOperator.DOES_NOT_EXIST:
            return f"!{item.key}"
        case LabelOperator.IN if len(item.values) == 1:
            return f"{item.key}={item.values[0]}"
        case LabelOperator.IN:
            return f"{item.key} in ({','.join(item.values)})"
        case LabelOperator.NOT_IN:
            return f"{item.key} notin ({','.join(item.values)})"


EVERYTHING = LabelSelector()


def label_selector(requirements: Iterable[LabelRequirement]) -> LabelSelector:
    """A selector in canonical order, so that selectors written differently share what they resolve to."""
    in_order = sorted(set(requirements), key=lambda item: (item.key, item.operator.value, item.values))
    return LabelSelector(tuple(in_order))


Namespaces: TypeAlias = str | LabelSelector
"""One namespace by its name, or those that have these labels."""


@dataclass(frozen=True, slots=True)
class WorkloadMember:
    """The workloads of some namespaces that have these labels (podSelector with or without namespaceSelector).

    `machines_only`: those that are no pods (nsx-operator's vmSelector).
    """

    namespaces: Namespaces
    labels: LabelSelector = EVERYTHING
    machines_only: bool = False

    def matches(self, port: Port, world: PolicySet) -> bool:
        """A port outside every namespace is never a member."""
        if port.namespace is None or (self.machines_only and port.is_pod) or not self.labels.holds(port.labels):
            return False
        if isinstance(self.namespaces, str):
            return port.namespace == self.namespaces
        return self.namespaces.holds(world.inventory.namespace_labels(port.namespace))

    def ranges(self, world: PolicySet) -> Iterable[AddressRange]:
        """None: labels select workloads."""
        return ()

    def __str__(self) -> str:
        """`pods app=web in namespace shop`, `machines in namespaces team=a`, `all pods in all namespaces`."""
        what = "machines" if self.machines_only else "pods"
        who = f"{what} {self.labels}" if self.labels.requirements else f"all {what}"
        if isinstance(self.namespaces, str):
            return f"{who} in namespace {self.namespaces}"
        if not self.namespaces.requirements:
            return f"{who} in all namespaces"
        return f"{who} in namespaces {self.namespaces}"
