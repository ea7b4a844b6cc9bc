# SPDX-License-Identifier: Apache-2.0
"""Ask the kernel's connection tracking: packets go through a TUN device of a fresh network namespace.

Run as a program (root, `unshare --net`): reads a JSON list of IP packets in hex, prints a JSON list with, for each, the
states that forwarded packets came back with. The state travels in the DSCP field, written by nftables after tracking.
FTP and TFTP helpers act on their ports. A packet that comes back late (a datagram completed by a fragment) is listed
with the packet that let it go.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import struct
import subprocess
import sys
from pathlib import Path

_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001
_OWN_ADDRESS = "198.18.255.254"
_WAIT_S = 0.05
_STATES = ("new", "established", "related", "invalid", "untracked")
_REPLY = 8
_SETTINGS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/ct0/rp_filter": "0",
    "net/ipv4/conf/ct0/send_redirects": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/netfilter/nf_conntrack_checksum": "0",
}


def ruleset() -> str:
    """Helpers on their ports, and the state into the DSCP field."""
    marks = []
    for family in ("ip", "ip6"):
        where = f"meta nfproto {'ipv4' if family == 'ip' else 'ipv6'}"
        for value, state in enumerate(_STATES, 1):
            if state in ("invalid", "untracked"):
                marks.append(f"{where} ct state {state} {family} dscp set {value}")
                continue
            marks.append(f"{where} ct state {state} ct direction original {family} dscp set {value}")
            marks.append(f"{where} ct state {state} ct direction reply {family} dscp set {value + _REPLY}")
    helpers = "\n".join(
        f'ct helper {name}{number} {{ type "{name}" protocol {protocol}; l3proto {family}; }}'
        for name, protocol in (("ftp", "tcp"), ("tftp", "udp"))
        for family, number in (("ip", 4), ("ip6", 6))
    )
    return f"""table inet t {{
        {helpers}
        chain helpers {{
            type filter hook prerouting priority 0;
            meta nfproto ipv4 tcp dport 21 ct helper set "ftp4"
            meta nfproto ipv6 tcp dport 21 ct helper set "ftp6"
            meta nfproto ipv4 udp dport 69 ct helper set "tftp4"
            meta nfproto ipv6 udp dport 69 ct helper set "tftp6"
        }}
        chain marks {{
            type filter hook forward priority 100; policy accept;
            {chr(10).join(marks)}
        }}
    }}
    """


def open_device() -> int:
    """The TUN device through which everything goes both ways."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", b"ct0", _IFF_TUN_NO_PI))
    for command in ("link set lo up", "link set ct0 mtu 9000 up", f"addr add {_OWN_ADDRESS}/32 dev ct0",
                    "route add default dev ct0", "-6 route add default dev ct0"):  # fmt: skip
        subprocess.run(["ip", *command.split()], check=True)
    subprocess.run(["nft", "-f", "-"], input=ruleset(), text=True, check=True)
    for name, value in _SETTINGS.items():
        Path("/proc/sys", name).write_text(value)
    return device


def state_of(packet: bytes) -> str | None:
    """The state in a packet that came back; None for one that the kernel made itself."""
    if packet[0] >> 4 == 4:
        if packet[12:16] == bytes(map(int, _OWN_ADDRESS.split("."))):
            return None
        mark = packet[1] >> 2
    else:
        if packet[8:10] == b"\xfe\x80":
            return None
        mark = ((packet[0] & 15) << 2) | (packet[1] >> 6)
    value = mark & ~_REPLY
    if not value:
        return None
    return _STATES[value - 1] + ("/reply" if mark & _REPLY else "")


def main() -> None:
    """One conversation with the kernel."""
    packets = [bytes.fromhex(item) for item in json.load(sys.stdin)]
    device = open_device()
    answers: list[list[str]] = []
    for packet in packets:
        os.write(device, packet)
        states = []
        while select.select([device], [], [], _WAIT_S)[0]:
            state = state_of(os.read(device, 65_536))
            if state is not None:
                states.append(state)
        answers.append(states)
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
