# SPDX-License-Identifier: Apache-2.0
"""LabelSelector (meta/v1) -> the model's, validated as the API server does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dfw.fields import Cursor, Field, choice, listed, mapping
from dfw.kube.metadata import label_key, label_value, labels
from dfw.model import LabelOperator, LabelRequirement, LabelSelector, label_selector

EXPRESSION: Mapping[str, Field] = {
    "key": Field(label_key, required=True),
    "operator": Field(choice({item.value: item for item in LabelOperator}), required=True),
    "values": Field(listed(label_value)),
}


def _expression(cursor: Cursor) -> LabelRequirement | None:
    fields: dict[str, Any] | None = mapping(cursor, EXPRESSION)
    if fields is None or fields["key"] is None or fields["operator"] is None:
        return None
    operator, values = fields["operator"], fields["values"]
    if operator in (LabelOperator.IN, LabelOperator.NOT_IN):
        if not values:
            cursor.problem(f"{operator.value} needs values")
            return None
    elif values:
        cursor.member("values").problem(f"{operator.value} takes no values")
        return None
    return LabelRequirement(fields["key"], operator, tuple(sorted(set(values or ()))))


SELECTOR: Mapping[str, Field] = {
    "matchLabels": Field(labels, default={}),
    "matchExpressions": Field(listed(_expression), default=()),
}


def selector(cursor: Cursor) -> LabelSelector | None:
    """A selector; `{}` selects everything. None, after a problem, where it is no mapping."""
    fields = mapping(cursor, SELECTOR)
    if fields is None:
        return None
    equal = (LabelRequirement(key, LabelOperator.IN, (value,)) for key, value in fields["matchLabels"].items())
    return label_selector((*equal, *fields["matchExpressions"]))
