# SPDX-License-Identifier: Apache-2.0
"""Which block, which address: pure choices. That nobody else takes the same is seen to by the API: what is taken is the
name of an Allocation, or a key in one that is updated at a known revision.

The search begins at a place that depends on the asker's name alone: who asks again, not knowing whether the first time
succeeded, gets the same; and what was just given back is not the next to be given away.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from zlib import crc32

from dfw.model import Address, AddressRange, Family


def _start(asker: str, size: int) -> int:
    return crc32(asker.encode()) % size


def block_count(pools: Sequence[AddressRange], prefix: int) -> int:
    """How many blocks of this length the pools hold."""
    return sum(_blocks_in(pool, prefix) for pool in pools)


def _blocks_in(pool: AddressRange, prefix: int) -> int:
    return (pool.last - pool.first + 1) >> (pool.family.bits - prefix)


def block_at(pools: Sequence[AddressRange], prefix: int, index: int) -> AddressRange:
    """A block by its number. Raises IndexError."""
    for pool in pools:
        count = _blocks_in(pool, prefix)
        if index < count:
            size = 1 << (pool.family.bits - prefix)
            first = pool.first + index * size
            return AddressRange(pool.family, first, first + size - 1)
        index -= count
    raise IndexError(index)


def block_choices(pools: Sequence[AddressRange], prefix: int, asker: str, taken: Container[int]) -> Iterator[int]:
    """Numbers of blocks that are free, in the order in which this asker tries them."""
    count = block_count(pools, prefix)
    if count:
        start = _start(asker, count)
        for step in range(count):
            index = (start + step) % count
            if index not in taken:
                yield index


def usable(block: AddressRange) -> AddressRange | None:
    """A subnet's addresses for workloads: without the network's, the gateway's (the first) and broadcast."""
    last = block.last - 1 if block.family is Family.IPV4 else block.last
    first = block.first + 2
    return AddressRange(block.family, first, last) if first <= last else None


def usable_count(block: AddressRange) -> int:
    """How many workloads have room."""
    found = usable(block)
    return 0 if found is None else found.last - found.first + 1


def address_choice(block: AddressRange, asker: str, taken: Container[Address]) -> Address | None:
    """A free address of a subnet; None where it is full."""
    room = usable(block)
    if room is None:
        return None
    size = min(room.last - room.first + 1, 1 << 16)
    start = _start(asker, size)
    for step in range(size):
        address = Address(room.family, room.first + (start + step) % size)
        if address not in taken:
            return address
    return None


def single_choices(pools: Sequence[AddressRange], asker: str, taken: Container[str]) -> Iterator[Address]:
    """Free addresses of pools without subnets (egress), in the order in which this asker tries them."""
    counts = [pool.last - pool.first + 1 for pool in pools]
    total = min(sum(counts), 1 << 20)
    if not total:
        return
    start = _start(asker, total)
    for step in range(total):
        index = (start + step) % total
        for pool, count in zip(pools, counts, strict=True):
            if index < count:
                address = Address(pool.family, pool.first + index)
                if str(address) not in taken:
                    yield address
                break
            index -= count
