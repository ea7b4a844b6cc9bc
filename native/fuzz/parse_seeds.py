# SPDX-License-Identifier: Apache-2.0
"""First corpus of fuzz_parse: packets of the differential tests' generator, from IP up.

`parse_seeds.py DIR` writes one file a packet: legal ones of every protocol, malformed ones, tunnels, fragments.
"""

from __future__ import annotations

import sys
from pathlib import Path

from seed_files import seeds_write

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.hostile import tunnelled
from tests.support.traffic import RAW, Packet, Scenario, Traffic, World
from tests.support.wire import ethernet

COUNT = 300
LONGEST = 700


def cases() -> list[bytes]:
    """The target's two bytes (sums, tunnels, sanity; how much is present) and a packet."""
    events = [event for batch in Traffic(Scenario(5, link=RAW, width=24)).batches(COUNT * 4) for event in batch]
    packets = [event.data for event in events if isinstance(event, Packet) and 20 <= len(event.data) <= LONGEST]
    # One of each shape: version, protocol, length of the headers, flags.
    shapes = list({(data[0], data[6:10], len(data) // 40, data[32:34]): data for data in packets}.values())
    found = [bytes([number % 16, 255 - number % 40]) + data for number, data in enumerate(shapes[:COUNT])]
    world = World(Scenario(5))
    for _ in range(24):
        path, outer = world.path(), world.path()
        found.append(bytes([4 | 2, 255]) + tunnelled(world, outer, ethernet(path, path.udp(7, 7, b"inside"))))
    return found


if __name__ == "__main__":
    sys.exit(seeds_write(sys.argv, {f"seed-{number:03}": data for number, data in enumerate(cases())}))
