# SPDX-License-Identifier: Apache-2.0
"""`palisade matrix`: who reaches whom by policy, for all workloads and some ports."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import click

from dfw.output import emit, output_option

if TYPE_CHECKING:
    from dfw.model import Port
    from dfw.reach import Reach, Reachability, Service

DEFAULT_PORTS = "tcp/80"
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_ICMP = 1
_WORDS = {_ICMP: "ICMP", **{number: name.upper() for name, number in _PROTOCOLS.items()}}
_NUMBERED = re.compile(r"(tcp|udp|sctp)/([0-9]{1,5})", re.ASCII | re.IGNORECASE)
_NAMED = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)
_SIGNS = "X.?"  # DENIED, ALLOWED, UNKNOWN
_LEGEND = ". allowed, X denied, ? unknown, * differs by protocol, blank: no such port"
_JSON = ("false", "true", "null")
_VALUES: tuple[bool | None, ...] = (False, True, None)


class Asked(NamedTuple):
    """One item of --ports: a number with its protocol, `icmp`, or the name of a container's port."""

    text: str
    protocol: int = 0
    port: int = 0
    name: str = ""


class Column(NamedTuple):
    """One question about one receiver: `item` of --ports, which is service number `service` there."""

    receiver: int
    item: int
    service: int


def ports_parse(text: str) -> tuple[Asked, ...]:
    """`tcp/80,icmp,web` -> what is asked. `icmp`: an echo request of either family. Raises click.BadParameter."""
    found: list[Asked] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        numbered = _NUMBERED.fullmatch(item)
        if numbered and 1 <= int(numbered[2]) <= 65535:
            found.append(Asked(item, _PROTOCOLS[numbered[1].lower()], int(numbered[2])))
        elif item.lower() == "icmp":
            found.append(Asked(item, _ICMP))
        elif _NAMED.fullmatch(item) and len(item) <= 15:
            found.append(Asked(item, name=item))
        else:
            raise click.BadParameter(f"{item!r} is neither tcp/PORT, udp/PORT, sctp/PORT, icmp nor a port's name")
    if not found:
        raise click.BadParameter("name at least one port, such as tcp/80")
    return tuple(dict.fromkeys(found))


@click.command(
    epilog="""\b
Examples:
  palisade matrix --policy policy.yaml --inventory inventory.yaml --ports tcp/80,udp/53
  palisade matrix --policy manifests.yaml --ports serve-80-tcp -o json"""
)
@click.option(
    "--policy", "policies", multiple=True, required=True, metavar="F", help="Policy file; may be given again."
)
@click.option("--inventory", "inventories", multiple=True, metavar="F", help="Inventory file; may be given again.")
@click.option("--ports", default=DEFAULT_PORTS, show_default=True, help="tcp/80,udp/53,sctp/80,icmp or ports' names.")
@click.option("--at", metavar="TIME", help="For schedules: 2026-03-31T09:30 (UTC), or with an offset. Default: now.")
@click.option("--default-action", type=click.Choice(["ALLOW", "DROP", "REJECT"]), help="Of the default section.")
@click.option("--staged", is_flag=True, help="As it would be with the staged policies in force.")
@output_option
def matrix(
    policies: tuple[str, ...],
    inventories: tuple[str, ...],
    ports: str,
    at: str | None,
    default_action: str | None,
    staged: bool,
    output: str,
) -> None:
    """Who reaches whom by policy: every pair of workloads, for each port.

    A pair is allowed when the sender's vNIC lets the first packet out (egress) and the receiver's lets it in (ingress);
    nobody needs to listen. Unknown (?, null): a rule looks at the address of a workload whose manifest has none. A
    port's name gives a row only for receivers that have it.
    """
    from dfw.endpoint import EndpointError
    from dfw.load import load
    from dfw.model import Action
    from dfw.moment import world_at

    asked = ports_parse(ports)
    loaded = load((*policies, *inventories), default_action=Action(default_action) if default_action else None)
    if not loaded.world.inventory.ports:
        raise click.UsageError("there are no workloads: give Pods, or an inventory with ports")
    from dfw.reach import Reachability

    try:
        world = world_at(loaded.world.what_if if staged else loaded.world, at)
    except EndpointError as error:
        raise click.UsageError(str(error)) from None
    answer = Matrix(Reachability(world), asked)
    if output == "json":
        answer.write_json(sys.stdout)
    elif output == "yaml":
        emit(list(answer.rows()), output)
    else:
        click.echo(answer.table())


class Matrix:
    """The answers for all pairs and ports. Rows: by sender, then receiver, in the inventory's order, then port."""

    def __init__(self, reachability: Reachability, asked: Sequence[Asked]) -> None:
        import numpy as np

        from dfw.reach import Service

        self.asked = tuple(asked)
        self.ports: tuple[Port, ...] = reachability.ports
        self._paths = [rule.path for rule in reachability.compiled.rules]
        services: dict[Service, int] = {}
        self.columns = [
            Column(receiver, item, services.setdefault(Service(protocol, number), len(services)))
            for receiver, port in enumerate(self.ports)
            for item, wanted in enumerate(self.asked)
            for protocol, number in _meant(wanted, port)
        ]
        self.services: tuple[Service, ...] = tuple(services)
        self._reach: list[Reach] = [reachability.judge(service) for service in self.services]
        self._width = len(self._paths) + 1
        self._codes = [self._coded(reach) for reach in self._reach]
        self._receivers = np.array([column.receiver for column in self.columns], dtype=np.int64)
        self._services = np.array([column.service for column in self.columns], dtype=np.int64)

    def _coded(self, reach: Reach) -> Any:
        """allowed, egress, ingress and rule of every pair as one number."""
        import numpy as np

        from dfw.reach import NO_RULE

        rule = np.where(reach.rule == NO_RULE, self._width - 1, reach.rule).astype(np.int64)
        parts = (reach.allowed.astype(np.int64) * 3 + reach.egress) * 3 + reach.ingress
        coded = parts * self._width + rule
        itself = ((1 * 3 + 1) * 3 + 1) * self._width + self._width - 1  # a workload reaches itself: allowed, by no rule
        np.fill_diagonal(coded, itself)
        return coded

    def _row(self, sender: int) -> list[int]:
        """The codes of one sender, column by column."""
        import numpy as np

        if not self.columns:
            return []
        stacked = np.stack([coded[sender] for coded in self._codes])
        found: list[int] = stacked[self._services, self._receivers].tolist()
        return found

    def _decoded(self, code: int) -> tuple[int, int, int, str | None]:
        parts, rule = divmod(code, self._width)
        parts, ingress = divmod(parts, 3)
        allowed, egress = divmod(parts, 3)
        return allowed, egress, ingress, None if rule == self._width - 1 else self._paths[rule]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of `-o json`."""
        for sender, port in enumerate(self.ports):
            for column, code in zip(self.columns, self._row(sender), strict=True):
                allowed, egress, ingress, by = self._decoded(code)
                yield {
                    "from": port.name,
                    **self._question(column),
                    "allowed": _VALUES[allowed],
                    "egress": _VALUES[egress],
                    "ingress": _VALUES[ingress],
                    "by": by,
                }

    def _question(self, column: Column) -> dict[str, Any]:
        service = self.services[column.service]
        named = self.asked[column.item].name
        return {
            "to": self.ports[column.receiver].name,
            "protocol": _WORDS[service.protocol],
            "port": None if service.protocol == _ICMP else service.port,
            "port_name": named or None,
        }

    def write_json(self, stream: TextIO) -> None:
        """The rows as one JSON array, a row a line. Millions of rows: each is put together from three ready texts."""
        questions = [json.dumps(self._question(column), ensure_ascii=False)[1:-1] for column in self.columns]
        endings = _Endings(self)
        parts = [""] * (3 * len(questions))
        parts[1::3] = questions
        before = "[\n"
        for sender, port in enumerate(self.ports):
            if not questions:
                break
            head = f'{{"from": {json.dumps(port.name, ensure_ascii=False)}, '
            parts[0::3] = [f",\n{head}"] * len(questions)
            parts[0] = before + head
            parts[2::3] = [endings[code] for code in self._row(sender)]
            stream.write("".join(parts))
            before = ",\n"
        stream.write("\n]\n" if before == ",\n" else "[]\n")

    def table(self) -> str:
        """For each port a grid: rows are senders, columns receivers, by number."""
        lines: list[str] = []
        names = [port.name for port in self.ports]
        wide = len(str(len(names)))
        left = max(map(len, names), default=0) + wide + 1
        for item, asked in enumerate(self.asked):
            lines += [*([""] if lines else []), f"{asked.text}   ({_LEGEND})"]
            lines.append(" " * left + "".join(f" {number:>{wide}}" for number in range(1, len(names) + 1)))
            mine = [at for at, column in enumerate(self.columns) if column.item == item]
            for sender, name in enumerate(names):
                cells = [" "] * len(names)
                codes = self._row(sender)
                for at in mine:
                    receiver, sign = self.columns[at].receiver, _SIGNS[self._decoded(codes[at])[0]]
                    cells[receiver] = sign if cells[receiver] in (" ", sign) else "*"
                label = f"{sender + 1:>{wide}} {name}".ljust(left)
                lines.append((label + "".join(f" {cell:>{wide}}" for cell in cells)).rstrip())
        return "\n".join(lines)


class _Endings(dict[int, str]):
    """The end of a JSON row by code, each made once."""

    def __init__(self, matrix: Matrix) -> None:
        super().__init__()
        self._matrix = matrix

    def __missing__(self, code: int) -> str:
        allowed, egress, ingress, by = self._matrix._decoded(code)
        verdicts = f'"allowed": {_JSON[allowed]}, "egress": {_JSON[egress]}, "ingress": {_JSON[ingress]}'
        found = self[code] = f', {verdicts}, "by": {json.dumps(by, ensure_ascii=False)}}}'
        return found


def _meant(asked: Asked, port: Port) -> Iterable[tuple[int, int]]:
    """What is asked about one receiver, as a Service has it; nothing where it has no port of that name."""
    if asked.protocol == _ICMP:
        from dfw.reach import PING

        return (PING,)
    if not asked.name:
        return ((asked.protocol, asked.port),)
    return [(item.protocol, item.number) for item in port.named_ports if item.name == asked.name]
