# SPDX-License-Identifier: Apache-2.0
"""`python -m dfw` is the command `palisade`."""

from dfw.cli import main

main()
