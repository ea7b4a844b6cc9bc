# SPDX-License-Identifier: Apache-2.0
"""What the fixture `palisade_traffic` gives: packets one after the other through a firewall that remembers.

What the rules say of first packets is `palisade_policy`'s. This is about what follows: answers, ICMP errors, data
connections of ALGs, fragments, timeouts, and connections that outlive a change of the policy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypedDict, Unpack

from dfw.core import REASONS, CoreError
from dfw.endpoint import EndpointError, Peer, endpoint_parse
from dfw.errors import PolicyError, UnsupportedError
from dfw.model import Direction
from dfw.packetbytes import MTU
from dfw.policytest.conversations import Judged
from dfw.policytest.errors import PolicyTestError, assertion, options_check
from dfw.policytest.firewall import Firewall
from dfw.policytest.messages import explanation, reason_text
from dfw.policytest.question import Question, probe_is_plain, question_make
from dfw.policytest.rules import rule_find, shown_rule
from dfw.policytest.talk import ANSWERS, ASKS, ERRORS, Made, Talk
from dfw.policytest.verdict import is_unrouted
from dfw.policytest.worlds import Subject, UnderTest, Worlds, mapped, packet_text, subject_load
from dfw.probe import EPHEMERAL_PORT, Probe

_STEP_NS: Final = 10**6
_SECOND_NS: Final = 10**9
_EPHEMERAL_PORTS: Final = 0x10000 - EPHEMERAL_PORT
_IDENTIFIER: Final = 1000  # an ICMP message that nobody asked for has 1 (dfw/probe.py)
_MTU_MIN: Final = 68  # RFC 791 section 3.2: every link carries that much


class Options(TypedDict, total=False):
    """`family`: 4 or 6, else 4 where both ends have it; `sport`: the source port, else one that no other connection of
    the test has; `mtu`: datagrams of more bytes go in fragments, else 1,500."""

    family: int | None
    sport: int | None
    mtu: int


@dataclass(frozen=True, slots=True)
class Sent:
    """One datagram that was sent, and what each filter on the way made of it, of each fragment where it has several.

    `at`: seconds on the test's clock; `text`: the packet in words.
    """

    text: str
    at: float
    judgements: tuple[Judged, ...]
    _traffic: TrafficUnderTest = field(repr=False)
    _first: Probe | None = field(repr=False)

    @property
    def passes(self) -> bool:
        """Did every filter on the way let it pass?"""
        return all(item.verdict == "ALLOW" for item in self.judgements)

    @property
    def decided(self) -> Judged:
        """The judgement that refused it, else the last one."""
        return next((item for item in self.judgements if item.verdict != "ALLOW"), self.judgements[-1])

    def assert_allowed(self, *, by: str | None = None, reason: str | None = None) -> None:
        """It arrives; with `by` that rule let it pass at one of the vNICs, with `reason` it passed there for this
        reason (docs/reasons.md): `match`, `state`, `related`."""
        __tracebackhide__ = True
        self._traffic.settle(self, self._first, True, by, reason)

    def assert_denied(self, *, by: str | None = None, reason: str | None = None) -> None:
        """It does not arrive. With `by` or `reason` it errors where another rule, or another reason, refused it."""
        __tracebackhide__ = True
        self._traffic.settle(self, self._first, False, by, reason)


class Connection:
    """Both ends of one connection. What is sent is judged at once; what is refused has not arrived, and the other end
    does not acknowledge it."""

    def __init__(self, traffic: TrafficUnderTest, talk: Talk) -> None:
        self._traffic = traffic
        self._talk = talk

    def send(self, payload: bytes = b"") -> Sent:
        """Data from the end that began: a segment, a datagram, another echo request."""
        return self._traffic.send(self._talk.data(ASKS, payload))

    def answer(self, payload: bytes = b"") -> Sent:
        """Data from the other end; an echo reply."""
        return self._traffic.send(self._talk.data(ANSWERS, payload))

    def error(self, kind: str = "port-unreachable", *, source: str | None = None, mtu: int = 1280) -> Sent:
        """An ICMP or ICMPv6 error that quotes the last packet of the end that began, told by the other end, or by
        `source`, a router on the way. `kind`: no-route, host-unreachable, port-unreachable, too-big (`mtu`: what would
        do), prohibited or time-exceeded."""
        __tracebackhide__ = True
        if kind not in ERRORS:
            raise PolicyTestError(f"{kind!r} is no ICMP error that can be sent: {', '.join(ERRORS)}")
        probe = self._talk.probe
        teller = probe.destination if source is None else self._traffic.peer(source, probe)
        return self._traffic.send(self._talk.error(kind, teller, mtu))

    def close(self) -> None:
        """Both ends take their leave: TCP's FINs, SCTP's SHUTDOWN. Fails where one of these packets does not arrive."""
        __tracebackhide__ = True
        for made in self._talk.closing:
            self._traffic.send(made).assert_allowed()

    def reset(self) -> Sent:
        """The end that began gives up: RST, ABORT."""
        __tracebackhide__ = True
        made = self._talk.reset(ASKS)
        if made is None:
            raise PolicyTestError(f"{packet_text(self._talk.probe)}: only TCP and SCTP have a reset")
        return self._traffic.send(made)


class TrafficUnderTest(UnderTest):
    """A firewall with no connection yet, and a clock at 0 that goes on a millisecond a datagram. Ends and services are
    written as for palisade_policy, and mean one connection."""

    def __init__(self, worlds: Worlds, subject: Subject, test: str, folder: Path) -> None:
        super().__init__(worlds, subject, test, folder)
        self._is_opaque()
        with _readable():
            self._firewall = Firewall(subject)
        self._begun = 0

    def open(
        self, source: str, destination: str, service: str, *, by: str | None = None, **options: Unpack[Options]
    ) -> Connection:
        """A connection that stands: TCP's or SCTP's handshake, else the first packet, all of which must arrive; with
        `by` that rule lets the first packet pass."""
        __tracebackhide__ = True
        talk = self._talk("open", source, destination, service, options)
        first: Probe | None = talk.probe
        for made in talk.opening:
            self.settle(self.send(made, first), first, True, by if first else None, None)
            first = None
        return Connection(self, talk)

    def begin(self, source: str, destination: str, service: str, **options: Unpack[Options]) -> Sent:
        """The first packet of a connection, whatever becomes of it."""
        __tracebackhide__ = True
        talk = self._talk("begin", source, destination, service, options)
        return self.send(next(talk.opening), talk.probe)

    def assert_denied(
        self,
        source: str,
        destination: str,
        service: str,
        *,
        by: str | None = None,
        reason: str | None = None,
        **options: Unpack[Options],
    ) -> None:
        """The first packet of a connection does not arrive. Errors where that proves nothing, as palisade_policy's."""
        __tracebackhide__ = True
        talk = self._talk("assert_denied", source, destination, service, options)
        if is_unrouted(self._firewall.world.inventory, talk.probe):
            raise PolicyTestError(
                f"{packet_text(talk.probe)}: its denial proves nothing: no gateway joins their segments"
            )
        self.send(next(talk.opening), talk.probe).assert_denied(by=by, reason=reason)

    def wait(self, seconds: float) -> None:
        """Nothing is sent for so long."""
        __tracebackhide__ = True
        if not (math.isfinite(seconds) and seconds >= 0):
            raise PolicyTestError(f"wait({seconds!r}): a number of seconds, 0 or more")
        self._firewall.now_ns += round(seconds * _SECOND_NS)

    def change(self, *files: str | Path) -> None:
        """From now on the policy of these files is in force, relative to the test's file, the inventory among them (the
        same vNICs, whose tags and labels may be others). Connections stay."""
        __tracebackhide__ = True
        if not files:
            raise PolicyTestError("change(...) names files, such as change('locked.yaml', 'inventory.yaml')")
        sources = replace(self._subject.sources, files=tuple(str((self._folder / name).resolve()) for name in files))
        with _readable():
            self._firewall.change(subject_load(sources))

    def remove(self, rule: str) -> None:
        """From now on the policy lacks this rule (its path, or an end of it). Connections stay."""
        __tracebackhide__ = True
        path = rule_find(self._firewall.world, rule)
        world = mapped(self._firewall.world, lambda _, item: None if item.path == path else item)
        self._firewall.change(replace(self._firewall.subject, base=world, mutant=None))

    def peer(self, text: str, like: Probe) -> Peer:
        """The one end that this names, in the address family of a packet. Raises PolicyTestError."""
        __tracebackhide__ = True
        try:
            found = list(endpoint_parse(text, self._firewall.world).peers(like.family))
        except EndpointError as error:
            raise PolicyTestError(str(error)) from None
        if len(found) != 1:
            raise PolicyTestError(f"{text!r} is {len(found)} ends of {like.family.name}; name one")
        return found[0]

    def send(self, made: Made, first: Probe | None = None) -> Sent:
        """Judge a datagram. `first`: what it is the first packet of."""
        self._firewall.now_ns += _STEP_NS
        found = self._firewall.judge(made.frames)
        sent = Sent(made.text, self._firewall.now_ns / _SECOND_NS, found, self, first)
        if sent.passes:
            made.arrived()
        return sent

    def settle(self, sent: Sent, first: Probe | None, allowed: bool, by: str | None, reason: str | None) -> None:
        """Does what is said of it hold? Raises AssertionError, and PolicyTestError where that proves nothing."""
        __tracebackhide__ = True
        if reason is not None and reason not in REASONS:
            raise PolicyTestError(f"{reason}: no such reason (docs/reasons.md has them all)")
        path = None if by is None else rule_find(self._firewall.subject.base, by)
        words = ("allowed" if allowed else "denied", path and f"by {self._rule(path)}", reason and f"({reason})")
        expected = " ".join(filter(None, words))
        if sent.passes is not allowed:
            raise assertion(self._differs(sent, first, expected))
        judged = sent.judgements if allowed else (sent.decided,)
        if not any(path in (None, item.rule_path) and reason in (None, item.reason) for item in judged):
            message = self._differs(sent, first, expected)
            raise assertion(message) if allowed else PolicyTestError(message)
        if self._firewall.subject is self._subject:
            self._count({item.rule_path for item in judged if item.rule_path})

    def end(self) -> None:
        """Free the firewall's memory."""
        self._firewall.close()

    def _talk(self, verb: str, source: str, destination: str, service: str, options: Options) -> Talk:
        __tracebackhide__ = True
        options_check(options, Options.__annotations__, verb)
        mtu = options.get("mtu", MTU)
        if not isinstance(mtu, int) or mtu < _MTU_MIN:
            raise PolicyTestError(f"mtu={mtu!r}: a number of bytes, {_MTU_MIN} or more")
        sport = options.get("sport")
        if sport is None:  # each another one, as a host takes them
            sport = EPHEMERAL_PORT + self._begun % _EPHEMERAL_PORTS
        self._begun += 1
        try:
            question = question_make(
                self._firewall.world,
                allowed=verb != "assert_denied",
                source=source,
                destination=destination,
                service=service,
                family=options.get("family"),
                sport=sport,
                verb=verb,
            )
            return Talk(_single(question), mtu, _IDENTIFIER + self._begun)
        except PolicyTestError as error:
            raise error.with_traceback(None) from None

    def _differs(self, sent: Sent, first: Probe | None, expected: str) -> str:
        head = f"{sent.text} (at {sent.at:,.3f} s): expected {expected}, but it is {self._seen(sent.decided)}"
        if first is None or sent.decided.reason != "match" or not probe_is_plain(first):
            return head
        return f"{head}\n\n{explanation(self._firewall.subject, first)}"

    def _seen(self, decided: Judged) -> str:
        if decided.dir is None:
            return "allowed: neither end is a vNIC, so no filter judges it"
        where = "" if decided.dir == Direction.IN_OUT.name else f" at {decided.vnic} ({decided.dir})"
        rule = f" by {self._rule(decided.rule_path)}" if decided.rule_path else ""
        return f"{decided.verdict}{rule}{where}: {reason_text(decided.reason)}"

    def _rule(self, path: str) -> str:
        """A rule with its place, if need be as the policy was before it changed."""
        rules = self._firewall.subject.rules
        return shown_rule(rules.get(path) or self._subject.rules[path])


def _single(question: Question) -> Probe:
    """The first packet that is meant: one pair of ends and one service, IPv4 where both families would do."""
    family = min(probe.family for probe in question.probes)
    found = [probe for probe in question.probes if probe.family == family]
    if len(found) != 1:
        raise PolicyTestError(
            f"{question.text}: {len(found)} connections; here it is one at a time: name one vNIC or address at each "
            "end, and one service"
        )
    return found[0]


@contextmanager
def _readable() -> Iterator[None]:
    """A policy that cannot be read, or not be enforced, is the test's error, in the policy's words."""
    __tracebackhide__ = True
    try:
        yield
    except (PolicyError, UnsupportedError, CoreError) as error:
        raise PolicyTestError(str(error).replace(f"{Path.cwd()}/", "")) from None
