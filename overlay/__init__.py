# SPDX-License-Identifier: Apache-2.0
"""The overlay: segments, tunnel endpoints, gateways and hosts, the host agent, the pods' run time and the lab.

It uses `dfw`; nothing in `dfw` knows it.
"""

from dfw import __version__

__all__ = ["__version__"]
