# SPDX-License-Identifier: Apache-2.0
"""The TCP tracker (docs/packet-path.md section 6): every cell of the table, windows, scaling, RST, reuse."""

from __future__ import annotations

from typing import Any

import pytest

from dfw.oracle import parse
from dfw.oracle.tcp import TcpState, TcpTracker, after, before, may_begin, track, tracker_begin
from dfw.oracle.verdict import ACCEPTED, PASSED_OVER, REOPENED
from tests.support.oracle_bench import ACK, FIN, RAW, RST, SYN, A, B, tcp

CLIENT, SERVER = 0, 1
EVENTS = {"SYN": SYN, "SYN+ACK": SYN | ACK, "FIN": FIN | ACK, "ACK": ACK, "RST": RST}
ISN = (1_000, 5_000)


class Talk:
    """A connection between both ends, with relative sequence numbers: 0 is the end's initial one."""

    def __init__(self, isn: tuple[int, int] = ISN) -> None:
        self.isn = isn
        self.tracker = TcpTracker()

    def packet(self, who: int, flags: int, seq: int, ack: int | None, **more: Any) -> Any:
        """A parsed segment."""
        other = 1 - who
        number = 0 if ack is None else self.isn[other] + ack
        ends = (A, B) if who == CLIENT else (B, A)
        data = tcp(*ends, (1, 2) if who == CLIENT else (2, 1), flags, self.isn[who] + seq, number, **more)
        packet = parse(data, RAW, len(data))
        assert packet.refusal is None
        return packet

    def begin(self, flags: int = SYN, seq: int = 0, ack: int | None = None, **more: Any) -> Talk:
        """The first segment, from the client."""
        self.tracker = tracker_begin(self.packet(CLIENT, flags, seq, ack, **more))
        return self

    def send(self, who: int, flags: int, seq: int, ack: int | None = None, **more: Any) -> str:
        """Track one more."""
        return track(self.tracker, who, self.packet(who, flags, seq, ack, **more))

    def good(self, *segments: tuple[Any, ...]) -> Talk:
        """Segments that must be accepted."""
        for segment in segments:
            more = segment[4] if len(segment) > 4 else {}
            assert self.send(*segment[:4], **more) == ACCEPTED, segment
        return self

    @property
    def state(self) -> str:
        """The state's name."""
        return self.tracker.state.value


def opened(**more: Any) -> Talk:
    """After the three-way handshake."""
    talk = Talk().begin(**more)
    return talk.good((SERVER, SYN | ACK, 0, 1, more), (CLIENT, ACK, 1, 1))


def in_state(name: str) -> Talk:
    """A connection in this state. Both ends are at sequence number 1 (2 after their FIN)."""
    match name:
        case "SYN_SENT":
            return Talk().begin()
        case "SYN_SENT2":
            return Talk().begin().good((SERVER, SYN, 0, None))
        case "SYN_RECEIVED":
            return Talk().begin().good((SERVER, SYN | ACK, 0, 1))
        case "ESTABLISHED":
            return opened()
        case "FIN_WAIT":
            return opened().good((CLIENT, FIN | ACK, 1, 1))
        case "CLOSING":
            return opened().good((CLIENT, FIN | ACK, 1, 1), (SERVER, FIN | ACK, 1, 1))
        case "TIME_WAIT":
            return opened().good((CLIENT, FIN | ACK, 1, 1), (SERVER, FIN | ACK, 1, 2), (CLIENT, ACK, 2, 2))
        case "CLOSED":
            return opened().good((CLIENT, RST, 1, None))
    raise AssertionError(name)


# state: (answer, state afterwards) for SYN, SYN+ACK, FIN, ACK, RST of the original, then of the reply direction.
# The segments carry the next sequence number and acknowledge everything.
OK, OVER, REFUSED = ACCEPTED, PASSED_OVER, "tcp-state"
OPEN_OVER = (OVER, None)
TABLE: dict[str, list[tuple[str, str | None]]] = {
    "SYN_SENT": [
        (OK, "SYN_SENT"), (REFUSED, None), (REFUSED, None), (REFUSED, None), (OK, "CLOSED"),
        (OK, "SYN_SENT2"), (OK, "SYN_RECEIVED"), (REFUSED, None), (OVER, None), (OK, "CLOSED"),
    ],
    "SYN_SENT2": [
        (OK, "SYN_SENT2"), (OK, "SYN_RECEIVED"), (REFUSED, None), (REFUSED, None), (OK, "CLOSED"),
        (OK, "SYN_SENT2"), (OK, "SYN_RECEIVED"), (REFUSED, None), (OVER, None), (OK, "CLOSED"),
    ],
    "SYN_RECEIVED": [
        (OVER, None), (OK, "SYN_RECEIVED"), (OK, "FIN_WAIT"), (OK, "ESTABLISHED"), (OK, "CLOSED"),
        (REFUSED, None), (OVER, None), (OK, "FIN_WAIT"), (OK, "SYN_RECEIVED"), (OK, "CLOSED"),
    ],
    "ESTABLISHED": [
        (OVER, None), (REFUSED, None), (OK, "FIN_WAIT"), (OK, "ESTABLISHED"), (OK, "CLOSED"),
        (REFUSED, None), (OVER, None), (OK, "FIN_WAIT"), (OK, "ESTABLISHED"), (OK, "CLOSED"),
    ],
    "FIN_WAIT": [
        (OVER, None), (REFUSED, None), (OK, "FIN_WAIT"), (OK, "FIN_WAIT"), (OK, "CLOSED"),
        (REFUSED, None), (OVER, None), (OK, "CLOSING"), (OK, "FIN_WAIT"), (OK, "CLOSED"),
    ],
    "CLOSING": [
        (OVER, None), (REFUSED, None), (OK, "CLOSING"), (OK, "CLOSING"), (OK, "CLOSED"),
        (REFUSED, None), (OVER, None), (OK, "CLOSING"), (OK, "CLOSING"), (OK, "CLOSED"),
    ],
    "TIME_WAIT": [
        (REOPENED, None), (REFUSED, None), (OK, "TIME_WAIT"), (OK, "TIME_WAIT"), (OK, "CLOSED"),
        (REOPENED, None), (OVER, None), (OK, "TIME_WAIT"), (OK, "TIME_WAIT"), (OK, "CLOSED"),
    ],
    "CLOSED": [
        (REOPENED, None), (REFUSED, None), (OK, "CLOSED"), (OK, "CLOSED"), (OK, "CLOSED"),
        (REOPENED, None), (OVER, None), (OK, "CLOSED"), (OK, "CLOSED"), (OK, "CLOSED"),
    ],
}  # fmt: skip
CELLS = [
    (state, who, event, *answers[who * 5 + column])
    for state, answers in TABLE.items()
    for who in (CLIENT, SERVER)
    for column, event in enumerate(EVENTS)
]


@pytest.mark.parametrize(("state", "who", "event", "answer", "then"), CELLS)
def test_every_cell(state: str, who: int, event: str, answer: str, then: str | None) -> None:
    talk = in_state(state)
    assert talk.state == state
    flags = EVENTS[event]
    fins = [half.fin for half in talk.tracker.halves]
    begun = state not in ("SYN_SENT", "SYN_SENT2")
    seq = 0 if flags & SYN else 1 + fins[who]
    ack = 1 + (fins[1 - who] and begun) if flags & ACK else None
    if event == "RST" and state == "SYN_SENT" and who == SERVER:
        flags, ack = RST | ACK, 1
    assert talk.send(who, flags, seq, ack) == answer
    assert talk.state == (then or state)


def test_what_may_begin() -> None:
    talk = Talk()
    begins = {name: may_begin(talk.packet(CLIENT, flags, 0, 0)) for name, flags in EVENTS.items()}
    assert begins == {"SYN": True, "SYN+ACK": False, "FIN": False, "ACK": True, "RST": False}


def test_picked_up_in_mid_stream_has_no_window_tests() -> None:
    talk = Talk().begin(ACK, 1, 1)
    assert talk.state == "ESTABLISHED"
    assert talk.send(SERVER, ACK, 900_000_000, 800_000_000) == ACCEPTED
    assert talk.send(CLIENT, ACK, 5, 5, payload=bytes(100)) == ACCEPTED
    assert talk.send(CLIENT, SYN, 0) == PASSED_OVER


def test_serial_numbers_wrap() -> None:
    assert before(2**32 - 1, 0)
    assert after(0, 2**32 - 1)
    assert not before(7, 7)
    assert not after(7, 7)
    talk = Talk((2**32 - 2, 2**32 - 1)).begin()
    talk.good((SERVER, SYN | ACK, 0, 1), (CLIENT, ACK, 1, 1))
    talk.good((CLIENT, ACK, 1, 1, {"payload": bytes(50)}), (SERVER, ACK, 1, 51))
    assert talk.send(CLIENT, ACK, 51 + 70_000, 1) == "tcp-window"


def test_syn_ack_must_answer_the_syn() -> None:
    for ack in (0, 2):
        assert Talk().begin().send(SERVER, SYN | ACK, 0, ack) == "tcp-ack"


def test_fast_open_data_may_be_acknowledged_or_not() -> None:
    for ack in (1, 50, 101):
        assert Talk().begin(payload=bytes(100)).send(SERVER, SYN | ACK, 0, ack) == ACCEPTED
    assert Talk().begin(payload=bytes(100)).send(SERVER, SYN | ACK, 0, 102) == "tcp-ack"


def test_simultaneous_open() -> None:
    talk = Talk().begin().good((SERVER, SYN, 0, None), (CLIENT, SYN | ACK, 0, 1))
    assert talk.send(SERVER, SYN | ACK, 0, 1) == PASSED_OVER
    assert talk.good((SERVER, ACK, 1, 1)).state == "ESTABLISHED"


def test_simultaneous_open_repeated_syn_ack_is_window_tested() -> None:
    talk = Talk().begin().good((SERVER, SYN, 0, None), (CLIENT, SYN | ACK, 0, 1))
    assert talk.send(CLIENT, SYN | ACK, 0, 1) == ACCEPTED
    assert talk.send(CLIENT, SYN | ACK, 0, 2) == "tcp-ack"
    assert talk.send(CLIENT, SYN | ACK, 100_000, 1) == "tcp-window"
    assert talk.state == "SYN_RECEIVED"


@pytest.mark.parametrize(
    ("client", "server", "factor"), [(7, 7, 128), (7, None, 1), (None, 7, 1), (None, None, 1), (0, 3, 8)]
)
def test_scaling_holds_only_if_both_offer_it(client: int | None, server: int | None, factor: int) -> None:
    talk = Talk().begin(scale=client)
    talk.good((SERVER, SYN | ACK, 0, 1, {"scale": server, "window": 100}), (CLIENT, ACK, 1, 1))
    talk.good((SERVER, ACK, 1, 1, {"window": 100}))
    right = 1 + 100 * factor
    assert talk.send(CLIENT, ACK, right + 1, 1) == "tcp-window"
    assert talk.send(CLIENT, ACK, right, 1) == ACCEPTED


def test_the_window_of_a_syn_is_unscaled() -> None:
    talk = Talk().begin(scale=7).good((SERVER, SYN | ACK, 0, 1, {"scale": 7, "window": 1000}))
    # In units of 2^7 and rounded up: 8 * 128
    assert talk.send(CLIENT, ACK, 1 + 1024, 1) == ACCEPTED
    assert talk.send(CLIENT, ACK, 1 + 1025, 1) == "tcp-window"


def test_right_edge() -> None:
    talk = opened().good((SERVER, ACK, 1, 1, {"window": 1000}))
    # The handshake offered 65,535, and an edge never moves left.
    assert talk.send(CLIENT, ACK, 1 + 65_536, 1) == "tcp-window"
    assert talk.send(CLIENT, ACK, 1 + 65_535, 1, payload=b"x" * 1400) == ACCEPTED


def test_slack_behind_the_right_edge() -> None:
    talk = Talk().begin(window=10).good((SERVER, SYN | ACK, 0, 1, {"window": 10}), (CLIENT, ACK, 1, 1, {"window": 10}))
    parsed = talk.packet(CLIENT, ACK, 1, 1)
    parsed.payload_length = 10 + 66_000
    assert track(talk.tracker, CLIENT, parsed) == ACCEPTED
    other = Talk().begin(window=10)
    other.good((SERVER, SYN | ACK, 0, 1, {"window": 10}), (CLIENT, ACK, 1, 1, {"window": 10}))
    parsed.payload_length += 1
    assert track(other.tracker, CLIENT, parsed) == "tcp-window"


def test_edge_moves_with_acknowledgements() -> None:
    talk = opened()
    talk.good((CLIENT, ACK, 1, 1, {"payload": bytes(1000)}), (SERVER, ACK, 1, 1001, {"window": 500}))
    # 65,535 from 1 is further right than 500 from 1001.
    assert talk.tracker.halves[SERVER].right() == ISN[0] + 1 + 65_535
    talk.good((SERVER, ACK, 1, 1001, {"window": 65_535}))
    assert talk.tracker.halves[SERVER].right() == ISN[0] + 1001 + 65_535


def test_acknowledging_what_was_never_sent() -> None:
    talk = opened()
    assert talk.send(SERVER, ACK, 1, 2) == "tcp-ack"
    assert talk.good((CLIENT, ACK, 1, 1, {"payload": b"x"})).send(SERVER, ACK, 1, 2) == ACCEPTED


def test_old_data_and_old_acknowledgements_are_passed_over() -> None:
    talk = opened()
    sent = 1
    for _ in range(150):
        talk.good((CLIENT, ACK, sent, 1, {"payload": bytes(1000)}), (SERVER, ACK, 1, sent + 1000))
        sent += 1000
    halves = [half.ack for half in talk.tracker.halves], [half.end for half in talk.tracker.halves]
    assert talk.send(CLIENT, ACK, sent - 65_535 - 1, 1) == PASSED_OVER
    assert talk.send(CLIENT, ACK, sent - 65_535, 1) == ACCEPTED
    assert talk.send(SERVER, ACK, 1, sent - 66_001) == PASSED_OVER
    assert talk.send(SERVER, ACK, 1, sent - 66_000) == ACCEPTED
    assert halves == ([half.ack for half in talk.tracker.halves], [half.end for half in talk.tracker.halves])


def test_keep_alive_is_accepted() -> None:
    talk = opened().good((CLIENT, ACK, 1, 1, {"payload": bytes(10)}), (SERVER, ACK, 1, 11))
    assert talk.send(CLIENT, ACK, 10, 1) == ACCEPTED


def test_closing_in_both_orders() -> None:
    talk = opened().good((SERVER, FIN | ACK, 1, 1))
    assert talk.state == "FIN_WAIT"
    talk.good((CLIENT, ACK, 1, 2), (CLIENT, FIN | ACK, 1, 2))
    assert talk.state == "CLOSING"
    talk.good((SERVER, ACK, 2, 2))
    assert talk.state == "TIME_WAIT"


def test_rst_in_syn_sent_must_acknowledge_the_syn() -> None:
    assert Talk().begin().send(SERVER, RST | ACK, 0, 1) == ACCEPTED
    assert Talk().begin().send(SERVER, RST | ACK, 0, 0) == "tcp-rst"
    assert Talk().begin().send(SERVER, RST | ACK, 0, 2) == "tcp-rst"
    assert Talk().begin().send(SERVER, RST, 0) == "tcp-rst"


def test_rst_exact_in_window_and_outside() -> None:
    talk = opened()
    assert talk.send(CLIENT, RST, 0) == "tcp-rst"
    assert talk.send(CLIENT, RST, 1 + 65_536) == "tcp-rst"
    assert talk.send(CLIENT, RST, 100) == PASSED_OVER
    assert talk.state == "ESTABLISHED"
    assert talk.send(CLIENT, RST, 1) == ACCEPTED
    assert talk.state == "CLOSED"


def test_rst_at_the_end_of_its_train() -> None:
    talk = opened().good((CLIENT, ACK, 1, 1, {"payload": bytes(19)}))
    assert talk.send(CLIENT, RST | ACK, 20, 1) == ACCEPTED
    assert talk.state == "CLOSED"


def test_rst_with_empty_acknowledgement() -> None:
    assert opened().send(CLIENT, RST | ACK, 1, -ISN[1]) == ACCEPTED
    assert opened().send(CLIENT, RST | ACK, 1, 2) == "tcp-rst"


def test_rst_answering_a_challenge_ack() -> None:
    talk = Talk().begin()
    assert talk.send(SERVER, ACK, 777, 900_000) == PASSED_OVER
    assert talk.send(CLIENT, RST, 900_000) == ACCEPTED
    assert talk.state == "CLOSED"


def test_a_new_syn_that_is_answered_takes_the_connection_over() -> None:
    talk = opened()
    assert talk.send(CLIENT, SYN, 500_000, window=1000) == PASSED_OVER
    assert talk.send(SERVER, SYN | ACK, 900_000, 500_002) == PASSED_OVER
    assert talk.state == "ESTABLISHED"
    assert talk.send(SERVER, SYN | ACK, 900_000, 500_001) == ACCEPTED
    assert talk.state == "SYN_RECEIVED"
    talk.good((CLIENT, ACK, 500_001, 900_001))
    assert talk.state == "ESTABLISHED"
    assert talk.send(CLIENT, ACK, 1, 1) == PASSED_OVER


def test_an_accepted_packet_clears_the_memo() -> None:
    talk = opened()
    assert talk.send(CLIENT, SYN, 500_000) == PASSED_OVER
    talk.good((CLIENT, ACK, 1, 1))
    assert talk.send(SERVER, SYN | ACK, 900_000, 500_001) == PASSED_OVER
    assert talk.state == "ESTABLISHED"


def test_takeover_ends_mid_stream_liberties() -> None:
    talk = Talk().begin(ACK, 1, 1)
    assert talk.send(CLIENT, SYN, 500_000) == PASSED_OVER
    assert talk.send(SERVER, SYN | ACK, 900_000, 500_001) == ACCEPTED
    assert talk.send(CLIENT, ACK, 1_000_000, 900_001) == "tcp-window"


def test_refused_segments_change_nothing() -> None:
    talk = opened()
    snapshot = repr(talk.tracker)
    for segment in ((SERVER, ACK, 1, 2), (CLIENT, ACK, 200_000, 1), (CLIENT, RST, 0, None), (SERVER, SYN, 0, None)):
        assert talk.send(*segment) not in (ACCEPTED, PASSED_OVER)
    assert repr(talk.tracker) == snapshot
    assert talk.tracker.state is TcpState.ESTABLISHED
