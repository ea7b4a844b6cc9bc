# SPDX-License-Identifier: Apache-2.0
"""Values made of columns are those that the constructor makes."""

from __future__ import annotations

from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfw.inventory import workload_address, workload_ipv4
from dfw.model import Address, Family, Port, rows_of_columns

TEXTS = st.text(max_size=3)


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS, TEXTS, TEXTS, st.dictionaries(TEXTS, TEXTS, max_size=2)), max_size=5))
def test_rows(drawn: list[tuple[str, str, str, str, str, dict[str, str]]]) -> None:
    columns = list(zip(*drawn, strict=True)) or [()] * 6
    names = ("name", "host", "segment", "machine", "mac", "labels")
    made = rows_of_columns(Port, len(drawn), **dict(zip(names, columns, strict=True)))
    wanted = [
        Port(name, host, segment, machine, mac, labels=labels) for name, host, segment, machine, mac, labels in drawn
    ]
    assert made == wanted
    assert [repr(port) for port in made] == [repr(port) for port in wanted]
    assert [hash(port.name) for port in made] == [hash(port.name) for port in wanted]


def test_columns_that_do_not_fit() -> None:
    given_columns = dict.fromkeys(("name", "host", "segment", "machine"), repeat("x"))
    with pytest.raises(TypeError, match="mac has no column"):
        rows_of_columns(Port, 1, labels=[{}], **given_columns)
    with pytest.raises(TypeError, match="no field colour"):
        rows_of_columns(Port, 1, colour=[1], **given_columns)
    with pytest.raises(TypeError, match="too short"):
        rows_of_columns(Port, 2, mac=["x"], labels=repeat({}), **given_columns)


@given(st.integers(0, (1 << 32) - 1))
def test_workload_ipv4(value: int) -> None:
    address = Address(Family.IPV4, value)
    try:
        wanted: bytes | None = workload_address(str(address)).packed
    except ValueError:
        wanted = None
    assert workload_ipv4(str(address)) == wanted


@pytest.mark.parametrize("text", ["", "::1", "10.0.0", "10.0.0.1 ", "010.0.0.1", "10.0.0.1/32", "1\0"])
def test_no_workload_ipv4(text: str) -> None:
    assert workload_ipv4(text) is None
