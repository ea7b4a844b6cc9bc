# SPDX-License-Identifier: Apache-2.0
"""One judgement (docs/packet-path.md sections 2, 4, 5, 8): a filter, a direction, a packet."""

from __future__ import annotations

from dfw.model import Action, Alg, FloodLimits, Timers
from dfw.oracle import alg, icmp, sctp, tcp
from dfw.oracle.conntrack import key_of, timeout_ticks
from dfw.oracle.flow import Connection
from dfw.oracle.limits import MissBudget
from dfw.oracle.packet import ICMP, ICMPV6, IPV4, SCTP, SYN, TCP, Packet
from dfw.oracle.policy import EtherList, MatchedRule, RuleList, rule_key
from dfw.oracle.reject import RejectBudget, answer, answer_connection, is_answered, is_group_address
from dfw.oracle.verdict import ACCEPTED, PASSED_OVER, REOPENED
from dfw.oracle.worker import Decision, Worker


class Filter:
    """The firewall of one vNIC, or of a tap. `rules` None: nothing was committed, and nothing passes."""

    def __init__(self, name: str, worker: Worker) -> None:
        self.name = name
        self.rules: RuleList | None = None
        self.ether: EtherList | None = None
        self.epoch = 0
        self.timers = Timers()
        self.flood = FloodLimits()
        self.hits: dict[MatchedRule, int] = {}
        self._worker = worker
        self._budget = RejectBudget(worker.table.limits)
        self._misses = MissBudget(worker.table.limits)
        self._resets: list[bytes] = []  # to the ends of a connection that another's packet has ended

    def commit(self, rules: RuleList | None, ether: EtherList | None, timers: Timers, flood: FloodLimits) -> None:
        """Put rules of both layers, session timers and flood protection in force. The epoch rises."""
        self.rules = rules
        self.ether = ether
        self.timers = timers
        self.flood = flood
        self.epoch += 1

    def refuse_frame(self, frame: Packet, direction: int) -> Decision | None:
        """What the layer-2 rules say of a frame: None where it may go on to layer 3.

        Not asked: frames that the parser refused, and packets without an Ethernet header.
        """
        macs = frame.source_mac, frame.destination_mac
        if self.rules is None or self.ether is None or frame.refusal is not None or frame.ether_type is None:
            return None
        source, destination = (mac.hex(":") if mac is not None else "" for mac in macs)
        rule = self.ether.first_match(source, destination, frame.ether_type, direction)
        if rule is None or rule.action is Action.ALLOW:
            return None
        self.hits[rule] = self.hits.get(rule, 0) + 1
        return Decision("DROP", "match", rule, "untracked")

    def take_over(self) -> None:
        """Another process goes on, under the same rules: budgets are full again."""
        self._budget = RejectBudget(self._worker.table.limits)
        self._misses = MissBudget(self._worker.table.limits)
        self.epoch += 1

    def judge(self, packet: Packet, direction: int, vrf: int, timestamp_ns: int) -> Decision:
        """Judge one packet that is no fragment, or a datagram put together from fragments.

        `direction`: as in the model, IN_OUT on a tap. Changes the connections. Never raises for what a packet holds.
        """
        decision = self._judge(packet, direction, vrf, timestamp_ns)
        decision.answers, self._resets = [*self._resets, *decision.answers], []
        return decision

    def _judge(self, packet: Packet, direction: int, vrf: int, timestamp_ns: int) -> Decision:
        if self.rules is None:
            return Decision("DROP", "no-ruleset", None, "invalid")
        if packet.refusal is not None:
            return Decision("DROP", packet.refusal, None, "invalid")
        if not packet.ip_version:
            return Decision("ALLOW", "non-ip", None, "untracked")
        if icmp.is_error(packet):
            return self._judge_error(self.rules, packet, direction, vrf)
        if icmp.is_stateless(packet):
            return self._judge_stateless(self.rules, packet, direction)
        key = key_of(self.name, vrf, packet)
        expect = True
        if key is not None:
            found = self._worker.table.find(key, packet, self._worker.now)
            if found is not None:
                decision, expect = self._judge_hit(self.rules, *found, packet, direction, timestamp_ns)
                if decision is not None:
                    return decision
            if expect:
                expected = self._judge_expected(packet, direction, vrf, timestamp_ns)
                if expected is not None:
                    return expected
        return self._judge_miss(self.rules, packet, direction, vrf, timestamp_ns, _misfit_reason(packet))

    # Section 4: a miss

    def _judge_expected(self, packet: Packet, direction: int, vrf: int, timestamp_ns: int) -> Decision | None:
        """A connection that another one announced, with that one's rule."""
        worker = self._worker
        if packet.icmp_type >= 0 or (packet.protocol == TCP and not tcp.is_bare_syn(packet)):
            return None
        key = (
            self.name,
            vrf,
            packet.ip_version,
            packet.protocol,
            packet.source,
            packet.destination,
            packet.destination_port,
        )
        parent = worker.expectations.take(key, worker.now, worker.is_alive)
        if parent is None:
            return None
        full = self._make_room(packet, direction)
        if full is not None:
            return Decision("DROP", full, parent.rule, "new")
        created = self._create(packet, direction, vrf, timestamp_ns, parent.rule, parent)
        return Decision("ALLOW", "match", parent.rule, "related", connection=created)

    def _make_room(self, packet: Packet, direction: int) -> str | None:
        """Room for one more connection, in its budget and in the table (section 11); else the reason."""
        table, now = self._worker.table, self._worker.now
        if table.is_flooded(self.name, self.flood, packet, now):
            return "flood-limit"
        half_open = table.half_open
        if half_open is not None and not half_open.room(self.name, direction, packet.ip_version, packet.source, now):
            return "half-open"
        return None if table.make_room(packet.ip_version, now) else "ct-full"

    def _match(self, rules: RuleList, packet: Packet, direction: int) -> MatchedRule | None:
        matched: list[MatchedRule] = []
        rule = rules.first_match(
            rule_key(
                packet.ip_version,
                packet.protocol,
                (packet.source, packet.destination),
                (packet.source_port, packet.destination_port),
                packet.flags,
                direction,
            ),
            matched,
        )
        for item in (*matched, *([] if rule is None else [rule])):
            self.hits[item] = self.hits.get(item, 0) + 1
        return rule

    def _judge_miss(
        self, rules: RuleList, packet: Packet, direction: int, vrf: int, timestamp_ns: int, misfit: str | None
    ) -> Decision:
        """The rules decide; ALLOW by a stateful rule creates a connection, unless the packet may not begin one."""
        ct = "new" if misfit is None else "invalid"
        if not self._misses.take(direction, self._worker.now):
            return Decision("DROP", "miss-budget", None, ct)
        rule = self._match(rules, packet, direction)
        if rule is None:
            return Decision("DROP", "no-rule", None, ct)
        if rule.action is not Action.ALLOW:
            return self._refuse(rule, packet, direction, ct)
        if not rule.stateful:
            return Decision("ALLOW", "match", rule, "untracked")
        if packet.protocol == TCP and rule.tcp_strict and not tcp.is_bare_syn(packet):
            return Decision("DROP", "tcp-strict", rule, "invalid")
        if misfit is not None:
            return Decision("DROP", misfit, rule, "invalid")
        full = self._make_room(packet, direction)
        if full is not None:
            return Decision("DROP", full, rule, "new")
        created = self._create(packet, direction, vrf, timestamp_ns, rule, None)
        return Decision("ALLOW", "match", rule, "new", connection=created)

    def _judge_stateless(self, rules: RuleList, packet: Packet, direction: int) -> Decision:
        """Neighbour discovery, multicast listeners: the rules for every packet."""
        if not self._misses.take(direction, self._worker.now):
            return Decision("DROP", "miss-budget", None, "untracked")
        rule = self._match(rules, packet, direction)
        if rule is None:
            return Decision("DROP", "no-rule", None, "untracked")
        if rule.action is not Action.ALLOW:
            return self._refuse(rule, packet, direction, "untracked")
        return Decision("ALLOW", "match", rule, "untracked")

    def _refuse(self, rule: MatchedRule, packet: Packet, direction: int, ct: str) -> Decision:
        """DROP or REJECT by a rule."""
        if rule.action is Action.DROP:
            return Decision("DROP", "match", rule, ct)
        if not is_answered(packet):
            return Decision("REJECT", "match", rule, ct)
        if not self._budget.take(packet, direction, self._worker.now):
            return Decision("DROP", "reject-rate", rule, ct)
        return Decision("REJECT", "match", rule, ct, answers=[answer(packet)])

    def _create(
        self,
        packet: Packet,
        direction: int,
        vrf: int,
        timestamp_ns: int,
        rule: MatchedRule,
        parent: Connection | None,
    ) -> Connection:
        worker = self._worker
        is_icmp = packet.icmp_type >= 0
        connection = Connection(
            filter_name=self.name,
            direction=direction,
            vrf=vrf,
            ip_version=packet.ip_version,
            protocol=packet.protocol,
            source=packet.source,
            destination=packet.destination,
            source_port=packet.identifier if is_icmp else packet.source_port,
            destination_port=packet.icmp_type * 256 if is_icmp else packet.destination_port,
            rule=rule,
            epoch=self.epoch,
            number=worker.table.next_number(),
            file=worker.file,
            begun=worker.arrival,
            start_ns=timestamp_ns,
            parent=parent,
            expected=parent is not None,
            one_way=is_group_address(packet.ip_version, packet.destination),
        )
        in_order = True
        if packet.protocol == TCP:
            connection.tracker = tcp.tracker_begin(packet)
            in_order = connection.tracker.liberal
        elif packet.protocol == SCTP:
            connection.tracker = sctp.tracker_begin(packet)
        connection.count(packet, 0, timestamp_ns)
        worker.table.insert(connection)
        self._renew(connection)
        if in_order and parent is None:
            self._listen(connection, 0, packet)
        return connection

    # Section 5: a hit

    def _judge_hit(
        self, rules: RuleList, connection: Connection, direction: int, packet: Packet, way: int, timestamp_ns: int
    ) -> tuple[Decision | None, bool]:
        """A packet of a known connection, running `way` (IN, OUT) at the filter and in `direction` in the connection.

        No Decision: a miss after all; the flag says whether expectations count."""
        worker = self._worker
        if connection.epoch != self.epoch:
            decision = self._judge_again(rules, connection, direction, packet, way)
            if decision is not None or connection.ended == "policy":
                return decision, False
        if connection.parent is not None and not worker.is_alive(connection.parent):
            worker.table.end(connection, "parent")
            return None, True
        if connection.one_way and direction == 1:
            connection.dropped += packet.packet_count
            return Decision("DROP", "oneway", connection.rule, "invalid", True), False
        in_order = _is_in_order(connection, direction, packet)
        result = self._track(connection, direction, packet)
        if result == REOPENED:
            worker.table.end(connection, "reopened")
            return None, True
        if result not in (ACCEPTED, PASSED_OVER):
            connection.dropped += packet.packet_count
            return Decision("DROP", result, connection.rule, "invalid", direction == 1), False
        if direction == 1 or connection.replied:
            ct = "established"
        else:
            ct = "related" if connection.expected else "new"
        connection.count(packet, direction, timestamp_ns)
        if direction == 1:
            connection.replied = True
            if worker.table.half_open is not None:
                worker.table.half_open.leave(connection)
        if result == ACCEPTED:
            self._renew(connection)
            if in_order and connection.parent is None:
                self._listen(connection, direction, packet)
        return Decision("ALLOW", "state", connection.rule, ct, direction == 1, connection=connection), False

    def _track(self, connection: Connection, direction: int, packet: Packet) -> str:
        tracker = connection.tracker
        if isinstance(tracker, tcp.TcpTracker):
            self._worker.resync_time(tracker)
            return tcp.track(tracker, direction, packet)
        if tracker is not None:
            return sctp.track(tracker, direction, packet)
        return ACCEPTED

    def _renew(self, connection: Connection) -> None:
        """A new deadline; a child's packets keep its parent alive."""
        worker = self._worker
        connection.deadline = worker.now + timeout_ticks(connection, self.timers)
        if connection.parent is not None:
            connection.parent.deadline = worker.now + timeout_ticks(connection.parent, self.timers)

    def _listen(self, connection: Connection, direction: int, packet: Packet) -> None:
        """Let the ALG of the connection's rule look at an accepted packet."""
        key = alg.announced(connection, direction, packet)
        if key is not None:
            self._worker.expectations.add(key, connection, self._worker.now, self._worker.is_alive)

    def _judge_again(
        self, rules: RuleList, connection: Connection, direction: int, packet: Packet | None, way: int
    ) -> Decision | None:
        """The rules changed since the connection was judged. `packet` None: for an ICMP error, nothing is answered.

        None and not ended: it goes on. None and ended (`policy`): a stateless rule allows it now.
        """
        worker = self._worker
        parent = connection.parent
        if connection.rule.persist:
            connection.epoch = self.epoch
            return None
        if parent is not None:
            if worker.is_alive(parent) and parent.epoch != self.epoch:
                self._judge_parent(rules, parent, packet, way)
            if worker.is_alive(parent):
                connection.rule = parent.rule
                connection.epoch = self.epoch
            return None
        rule = _rule_of(rules, connection)
        if rule is not None and rule.action is Action.ALLOW:
            if rule.stateful:
                self._keep(connection, rule)
            else:
                worker.table.end(connection, "policy")
            return None
        if packet is not None:
            connection.dropped += packet.packet_count
        worker.table.end(connection, "policy")
        ct = "established" if connection.replied else "new"
        decision = Decision("DROP", "policy-change", rule, ct, direction == 1)
        rejects = packet is not None and rule is not None and rule.action is Action.REJECT
        if packet is not None and rejects and is_answered(packet) and self._budget.take(packet, way, worker.now):
            decision.answers = answer_connection(connection, direction, packet)
        return decision

    def _judge_parent(self, rules: RuleList, parent: Connection, packet: Packet | None, way: int) -> None:
        """An ALG's child is judged through its parent: by that one's first packet. Where it is refused, it ends."""
        if parent.rule.persist:
            parent.epoch = self.epoch
            return
        rule = _rule_of(rules, parent)
        if rule is not None and rule.action is Action.ALLOW and rule.stateful:
            self._keep(parent, rule)
            return
        self._worker.table.end(parent, "policy")
        if packet is None or rule is None or rule.action is not Action.REJECT or parent.protocol != TCP:
            return
        if is_answered(packet) and self._budget.take(packet, way, self._worker.now):
            self._resets = answer_connection(parent, int(packet.source != parent.source), packet)

    def _keep(self, connection: Connection, rule: MatchedRule) -> None:
        """It goes on, under this rule."""
        connection.rule = rule
        connection.epoch = self.epoch
        if rule.alg is Alg.NONE:
            self._worker.expectations.forget(connection)

    # Section 8: ICMP errors

    def _judge_error(self, rules: RuleList, packet: Packet, direction: int, vrf: int) -> Decision:
        """An error belongs to the connection that it quotes, and changes nothing in it."""
        # Errors fit into every link (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 c): fragments are no router's.
        quote = icmp.parse_quote(packet) if packet.fragments == 1 else None
        if quote is None:
            return Decision("DROP", "icmp-quote", None, "invalid")
        found = self._find_quoted(rules, quote, vrf)
        if found is None:
            return self._judge_miss(rules, packet, direction, vrf, 0, "icmp-unrelated")
        connection, quoted_direction = found
        tracker = connection.tracker
        if isinstance(tracker, tcp.TcpTracker) and not tracker.liberal:
            self._worker.resync_time(tracker)
            if not tcp.is_quotable(tracker, quoted_direction, quote.sequence):
                return Decision("DROP", "icmp-unrelated", None, "invalid")
        return Decision("ALLOW", "related", connection.rule, "related", quoted_direction == 0)

    def _find_quoted(self, rules: RuleList, quote: Packet, vrf: int) -> tuple[Connection, int] | None:
        """The living connection of a quoted packet, allowed by the rules in force, and that packet's direction."""
        worker = self._worker
        key = key_of(self.name, vrf, quote)
        found = None if key is None else worker.table.find(key, quote, worker.now)
        if found is None:
            return None
        connection, direction = found
        if connection.epoch != self.epoch:
            self._judge_again(rules, connection, direction, None, connection.direction)
        if connection.ended is None and connection.parent is not None and not worker.is_alive(connection.parent):
            worker.table.end(connection, "parent")
        return found if connection.ended is None else None


def _rule_of(rules: RuleList, connection: Connection) -> MatchedRule | None:
    """The rule for the connection's first packet."""
    ports = connection.source_port, connection.destination_port
    if connection.protocol == (ICMP if connection.ip_version == IPV4 else ICMPV6):
        ports = 0, connection.destination_port
    return rules.first_match(
        rule_key(
            connection.ip_version,
            connection.protocol,
            (connection.source, connection.destination),
            ports,
            SYN if connection.protocol == TCP else 0,
            connection.direction,
        )
    )


def _misfit_reason(packet: Packet) -> str | None:
    """Why this packet may not begin a connection; None where it may."""
    if packet.protocol == TCP:
        return None if tcp.may_begin(packet) else "tcp-state"
    if packet.icmp_type >= 0:
        query = icmp.query_of(packet)
        return None if query is not None and query[1] == 0 else "icmp-state"
    if packet.protocol == SCTP:
        return None if sctp.may_begin(packet) else "sctp-state"
    return None


def _is_in_order(connection: Connection, direction: int, packet: Packet) -> bool:
    """May an ALG read this packet? TCP: FIN and ACK segments that carry on exactly where the sender was."""
    tracker = connection.tracker
    if not isinstance(tracker, tcp.TcpTracker):
        return True
    if tcp.event_of(packet.flags) not in (tcp.Event.FIN, tcp.Event.ACK):
        return False
    half = tracker.halves[direction]
    return tracker.liberal or (half.seen and packet.sequence == half.end)
