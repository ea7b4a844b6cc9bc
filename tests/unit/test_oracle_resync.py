# SPDX-License-Identifier: Apache-2.0
"""A table taken over (docs/packet-path.md section 14): what the oracle believes of connections that went on unseen."""

from __future__ import annotations

import pytest

from dfw.model import Action, Limits
from dfw.oracle.tcp import TcpTracker
from tests.support.oracle_bench import ALLOW, Tap, icmp, ip, policies, rule, tcp, udp

CLIENT, SERVER = "10.0.0.1", "10.0.0.2"
FIN, SYN, RST, ACK = 1, 2, 4, 16
REACH = 65_535
THERE, BACK = (40_000, 80), (80, 40_000)
ISN, ANSWER = 1_000, 500_000


def there(seq: int, ack: int, flags: int = ACK, payload: bytes = b"", window: int = 1_000) -> bytes:
    return tcp(CLIENT, SERVER, THERE, flags, ISN + seq, ANSWER + ack, payload=payload, window=window)


def back(seq: int, ack: int, flags: int = ACK, payload: bytes = b"", window: int = 1_000) -> bytes:
    return tcp(SERVER, CLIENT, BACK, flags, ANSWER + seq, ISN + ack, payload=payload, window=window)


def established(scale: int | None = None) -> Tap:
    """A connection after its handshake, windows of 1,000 each way; then another process takes over."""
    tap = Tap(ALLOW)
    tap.send(tcp(CLIENT, SERVER, THERE, SYN, ISN, 0, window=1_000, scale=scale))
    tap.send(tcp(SERVER, CLIENT, BACK, SYN | ACK, ANSWER, ISN + 1, window=1_000, scale=scale))
    assert tap.send(there(1, 1)) == "ALLOW state established"
    tap.run.take_over()
    return tap


def tracker(tap: Tap) -> TcpTracker:
    (connection,) = tap.run._worker.table._living.values()
    assert isinstance(connection.tracker, TcpTracker)
    return connection.tracker


@pytest.mark.parametrize("over", [False, True])
def test_far_beyond_the_window_is_believed_up_to_one_maximum_window(over: bool) -> None:
    tap = established()
    first = there(1 + REACH + over, 1)
    assert tap.send(first) == ("DROP tcp-window invalid" if over else "ALLOW state established")
    # Without a take-over it is outside the window.
    tap = established()
    tracker(tap).resync = None
    assert tap.send(there(1 + REACH, 1)) == "DROP tcp-window invalid"


@pytest.mark.parametrize(
    ("seq", "payload", "verdict"),
    [(REACH, 1, "ALLOW"), (REACH, 2, "DROP"), (1 - REACH, 1, "ALLOW"), (-REACH, 1, "DROP")],
)
def test_the_end_counts_too_and_so_do_numbers_before(seq: int, payload: int, verdict: str) -> None:
    tap = established()
    # The last number known of the client is 1.
    assert tap.send(there(seq, 1, payload=b"x" * payload)).split()[0] == verdict


def test_before_the_last_known_number_by_more_than_a_window() -> None:
    tap = established()
    assert tap.send(there(1 - REACH - 1, 1)) == "DROP tcp-window invalid"


@pytest.mark.parametrize("over", [False, True])
def test_what_is_acknowledged_may_be_unseen_but_not_too_far(over: bool) -> None:
    tap = established()
    said = tap.send(there(1, 1 + REACH + over))
    assert said == ("DROP tcp-ack invalid" if over else "ALLOW state established")
    half = tracker(tap).halves[1]
    # What was acknowledged was sent, though nobody saw it.
    assert half.end - ANSWER == (1 if over else 1 + REACH)


def test_the_scale_widens_it() -> None:
    tap = established(scale=4)
    assert tap.send(there(1 + (REACH << 4), 1)) == "ALLOW state established"
    tap = established(scale=4)
    assert tap.send(there(2 + (REACH << 4), 1)) == "DROP tcp-window invalid"


def test_refusals_of_an_rst() -> None:
    for packet in (there(2 + REACH, 1, RST), there(1, 2 + REACH, RST | ACK)):
        assert established().send(packet) == "DROP tcp-rst invalid"
    assert established().send(there(1, 1, RST)) == "ALLOW state established"


def test_two_segments_from_each_end_are_enough() -> None:
    tap = established()
    far = 20_000
    assert tap.send(there(far, 1)).startswith("ALLOW")
    assert tap.send(there(far, 1)).startswith("ALLOW")
    assert tap.send(back(1, far)) == "ALLOW state established reply"
    assert tracker(tap).resync == [2, 1]
    assert tap.send(back(1, far)) == "ALLOW state established reply"
    assert tracker(tap).resync is None
    # Windows are tested again, from where both ends are now.
    assert tap.send(there(far + 2_000, 1)) == "DROP tcp-window invalid"
    assert tap.send(there(far + 1_000, 1)) == "ALLOW state established"


def test_refused_and_passed_over_segments_teach_nothing() -> None:
    tap = established()
    tap.send(there(2 + REACH, 1))
    tap.send(back(5, 1, SYN))
    assert tracker(tap).resync == [0, 0]


def test_ten_seconds_are_enough() -> None:
    for seconds, verdict in ((10.0, "ALLOW"), (10.02, "DROP")):
        tap = established()
        assert tap.send(there(1, 1), at=1.0).startswith("ALLOW")
        assert tap.send(there(30_000, 1), at=1.0 + seconds).split()[0] == verdict


def test_the_ten_seconds_begin_with_any_connection_in_resync() -> None:
    tap = Tap(ALLOW)
    other = (40_001, 80)
    for ports in (THERE, other):
        tap.send(tcp(CLIENT, SERVER, ports, SYN, ISN, 0, window=1_000))
        tap.send(tcp(SERVER, CLIENT, ports[::-1], SYN | ACK, ANSWER, ISN + 1, window=1_000))
        tap.send(tcp(CLIENT, SERVER, ports, ACK, ISN + 1, ANSWER + 1, window=1_000))
    tap.run.take_over()
    assert tap.send(udp(CLIENT, SERVER, (1, 2)), at=0.5) == "ALLOW match new"  # begins nothing
    assert tap.send(tcp(CLIENT, SERVER, other, ACK, ISN + 1, ANSWER + 1), at=1.0).startswith("ALLOW")
    assert tap.send(there(30_000, 1), at=10.9).startswith("ALLOW")
    assert tap.send(there(60_000, 1), at=11.1).startswith("DROP tcp-window")


def test_which_connections_are_relearned() -> None:
    opening = Tap(ALLOW)
    opening.send(tcp(CLIENT, SERVER, THERE, SYN, ISN, 0, window=1_000))
    opening.run.take_over()
    assert tracker(opening).resync is None
    picked_up = Tap(ALLOW)
    picked_up.send(there(1, 1))
    picked_up.run.take_over()
    assert tracker(picked_up).resync is None
    closing = established()
    tracker(closing).resync = None
    closing.send(there(1, 1, FIN | ACK))
    closing.run.take_over()
    assert tracker(closing).resync == [0, 0]


def test_an_error_may_quote_what_was_sent_unseen() -> None:
    for quoted, said in ((1 + REACH, "ALLOW related related reply"), (2 + REACH, "DROP icmp-unrelated invalid")):
        tap = established()
        assert tap.send(icmp(SERVER, CLIENT, 3, 4, payload=there(quoted, 1)[:28])) == said


def test_a_new_connection_over_an_old_one_is_no_longer_relearned() -> None:
    tap = established()
    assert tap.send(tcp(CLIENT, SERVER, THERE, SYN, ISN + 900_000, 0)).startswith("ALLOW")  # passed over, remembered
    assert tap.send(tcp(SERVER, CLIENT, BACK, SYN | ACK, 7, ISN + 900_001)).startswith("ALLOW")
    assert tracker(tap).resync is None


def test_what_does_not_outlive_the_process() -> None:
    """Fragments held are refused; budgets are full; connections are judged again by the rules in force."""
    tap = Tap(policies(rule("no", Action.REJECT)), limits=Limits(rejects_peer=2))
    assert [tap.send(udp(CLIENT, SERVER, (n, 9))).split()[1] for n in (1, 2, 3)] == ["match", "match", "reject-rate"]
    tap.run.take_over()
    assert tap.send(udp(CLIENT, SERVER, (4, 9))) == "REJECT match new"
    tap = Tap(ALLOW)
    whole = udp(CLIENT, SERVER, (1, 2), b"x" * 40)
    assert tap.feed(ip(CLIENT, SERVER, 17, whole[20:36], fragment=0x2000)) == []
    tap.run.take_over()
    assert [line.reason for line in tap.run.finish()] == ["frag-incomplete"]
