# SPDX-License-Identifier: Apache-2.0
"""Descriptors outlive whoever opened them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay.holder import HolderClient, HolderError, holder_open, receive, send
from tests.support.patience import until


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[HolderClient]:
    client = holder_open(str(tmp_path / "h.sock"))
    yield client
    try:
        client.end()
    except (HolderError, OSError):
        pass
    client.close()


def test_a_pipe_stays_open_when_its_owner_closes_it(holder: HolderClient, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    holder.put("pipe", [writing], {"mac": "02:00:00:00:00:01"})
    os.close(writing)
    holder.close()

    again = HolderClient(str(tmp_path / "h.sock"))  # another agent
    assert again.held() == {"pipe": {"mac": "02:00:00:00:00:01"}}
    (mine,) = again.get("pipe")
    os.write(mine, b"alive")
    os.close(mine)
    assert os.read(reading, 9) == b"alive"
    again.drop("pipe")
    assert os.read(reading, 9) == b""  # nobody has it open any more
    assert again.held() == {}
    os.close(reading)
    again.end()
    again.close()


def test_what_is_put_again_takes_the_others_place(holder: HolderClient) -> None:
    first, second = os.pipe(), os.pipe()
    holder.put("x", [first[1]], {"n": 1})
    holder.put("x", [second[1]], {"n": 2})
    os.close(first[1])
    os.close(second[1])
    assert os.read(first[0], 1) == b""
    assert holder.held() == {"x": {"n": 2}}
    for number in (first[0], second[0]):
        os.close(number)


def test_nonsense_is_answered_with_a_sentence_and_leaks_nothing(holder: HolderClient) -> None:
    with pytest.raises(HolderError, match="nothing is held under the name 'no'"):
        holder.get("no")
    reading, writing = os.pipe()
    for message in ({}, {"do": "dance"}, {"do": "put", "name": "none"}):
        with pytest.raises(HolderError, match="bad request"):
            holder.ask(message, [writing] if message.get("do") != "put" else [])
    os.close(writing)
    assert os.read(reading, 1) == b""
    os.close(reading)
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    raw.connect(holder.socket.getpeername())
    raw.send(b"\xff not JSON")
    assert receive(raw)[0] == {"error": "bad request"}
    send(raw, {"do": "list"})
    assert receive(raw)[0] is not None
    raw.close()


def test_it_ends_when_told_and_leaves_no_socket(tmp_path: Path) -> None:
    client = holder_open(str(tmp_path / "h.sock"))
    pid = client.pid()
    assert holder_open(str(tmp_path / "h.sock")).pid() == pid  # one is enough
    client.end()
    until(lambda: not (tmp_path / "h.sock").exists(), "its socket stays")
