# SPDX-License-Identifier: Apache-2.0
"""The distributed firewall: model, compile, enforce, explain, replay, analyse, test and bench.

It uses the packet core (`_palisade_core`, through `dfw.core` alone) and nothing above it.
"""

__version__ = "0.1.0.dev0"
