# SPDX-License-Identifier: Apache-2.0
"""Which ports have which value of a label: as a list of ports that is looked through says, whatever came and went."""

from __future__ import annotations

from random import Random

import pytest

from dfw.incremental.label_column import LabelColumn


@pytest.mark.parametrize("seed", range(40))
def test_as_a_list_says(seed: int) -> None:
    random = Random(seed)
    values = [f"v{number}" for number in range(random.choice((3, 100)))]  # over and under what is looked for one by one
    labels: list[dict[str, str]] = [_drawn(random, values) for _ in range(random.randrange(80))]
    column = LabelColumn("key", labels)
    for _ in range(400):
        step = random.randrange(4)
        if step == 0 or not labels:
            labels.append(_drawn(random, values))
            column.put(len(labels) - 1, labels[-1].get("key"))
        elif step == 1:
            slot = random.randrange(len(labels))
            column.remove(slot, labels[slot].get("key"))
            labels[slot] = random.choice(({}, _drawn(random, values)))
            column.put(slot, labels[slot].get("key"))
        else:
            wanted = random.sample(values, 2)
            assert column.having(wanted[0]) == _having(labels, wanted[:1])
            assert column.having_any(wanted) == _having(labels, wanted)
            assert column.present() == _having(labels, values)
    assert column.having("nobody's") == set()


def _drawn(random: Random, values: list[str]) -> dict[str, str]:
    return random.choice(({}, {"key": random.choice(values)}, {"other": "v0", "key": random.choice(values)}))


def _having(labels: list[dict[str, str]], values: list[str]) -> set[int]:
    return {slot for slot, its in enumerate(labels) if its.get("key") in values}
