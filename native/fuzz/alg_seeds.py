# SPDX-License-Identifier: Apache-2.0
"""First corpus of fuzz_alg: control lines as servers and clients send them, near misses, and uses of the table.

`alg_seeds.py DIR` writes one file a case.
"""

from __future__ import annotations

import random
import sys

from seed_files import seeds_write

ORIGINAL, REPLY, TABLE = 0, 2, 1
END, SOONER, ADD, TAKE, ELSEWHERE = 0, 1, 2, 5, 7

SAID = (
    (ORIGINAL, b"PORT 10,0,0,1,156,64\r\n"),
    (ORIGINAL, b"port 255,255,255,255,255,255\n"),
    (ORIGINAL, b"PORT 10,0,0,1,156\r\n"),
    (ORIGINAL, b"PORT 10,0,0,1,156,64,7\r\n"),
    (ORIGINAL, b"PORT 10,0,0,1,156,640\r\n"),
    (ORIGINAL, b"PORT 10,0,0,001,0,0256\r\n"),
    (ORIGINAL, b"PORT  10,0,0,1,156,64\r\n"),
    (ORIGINAL, b"PORT 10,0,0,1,156,64"),
    (ORIGINAL, b"EPRT |1|10.0.0.1|40001|\r\n"),
    (ORIGINAL, b"eprt |2|fd00::1|40001|\r\n"),
    (ORIGINAL, b"EPRT !2!fe80::ffff:10.0.0.1!65535!\r\n"),
    (ORIGINAL, b"EPRT |2|fd00:0000:0000:0000:0000:0000:255.255.255.255|1|\r\n"),
    (ORIGINAL, b"EPRT |3|fd00::1|40001|\r\n"),
    (ORIGINAL, b"EPRT |1|10.0.0.1|65536|\r\n"),
    (ORIGINAL, b"EPRT |1|10.0.0.1|400011|\r\n"),
    (ORIGINAL, b"EPRT |1|010.0.0.1|40001|\r\n"),
    (ORIGINAL, b"EPRT |1||40001|\r\n"),
    (ORIGINAL, b"EPRT ||||\r\n"),
    (ORIGINAL, b"USER anonymous\r\nPORT 10,0,0,1,156,64\r\n"),
    (REPLY, b"227 Entering Passive Mode (10,0,0,2,156,65).\r\n"),
    (REPLY, b"227 10,0,0,2,156,65\r\n"),
    (REPLY, b"227 1,2,3 10,0,0,2,156,65,9\r\n"),
    (REPLY, b"227 1234,5,6,7,8,9,10\r\n"),
    (REPLY, b"227-10,0,0,2,156,65\r\n"),
    (REPLY, b"229 Entering Extended Passive Mode (|||40000|)\r\n"),
    (REPLY, b"229 (x)(!!!65535!)\r\n"),
    (REPLY, b"229 (||40000|)(|||65536|)(|||1|)\r\n"),
    (REPLY, b"229 (|||400000|)\r\n"),
    (REPLY, b"150 227 10,0,0,2,156,65\r\n"),
    (REPLY, b"229 (|||7|"),
)


def operation(what: int, parent: int = 0, ends: int = 0x12, port: int = 0, time: int = 0) -> bytes:
    """One use of the table."""
    return bytes([what, parent, ends, port, time])


def cases() -> dict[str, bytes]:
    """Every case by name."""
    rng = random.Random(9)
    found = {f"line-{number:02}": bytes([way]) + said for number, (way, said) in enumerate(SAID)}
    tables = {
        "taken": operation(ADD) + operation(TAKE) + operation(TAKE),
        "elsewhere": operation(ADD) + operation(ELSEWHERE, time=1) + operation(ELSEWHERE, time=3) + operation(TAKE),
        "again": operation(ADD, 1, port=4) + operation(ADD, 2, port=4) + operation(TAKE, port=4),
        "nine": b"".join(operation(ADD, 3, port=n) for n in range(9)) + operation(TAKE) + operation(TAKE, port=1),
        "ended": operation(ADD, 5) + operation(END, 5) + operation(TAKE),
        "late": operation(ADD) + operation(TAKE, ends=0x34, time=77) + operation(TAKE, time=9),
        "parent-late": operation(ADD, 6) + operation(SOONER, 6, port=1) + operation(TAKE, time=2),
        "full": b"".join(operation(ADD, n // 8, n & 255, n >> 8) for n in range(1030)) + operation(TAKE, port=4),
        "mixed": b"".join(
            operation(rng.randrange(8), rng.randrange(4), 0x12, rng.randrange(6), rng.randrange(9)) for _ in range(400)
        ),
    }
    return found | {name: bytes([TABLE]) + data for name, data in tables.items()}


if __name__ == "__main__":
    sys.exit(seeds_write(sys.argv, cases()))
