# SPDX-License-Identifier: Apache-2.0
"""The Supervisor: the Kubernetes API that developers talk to, its store, controllers, Spherelet and prechecks.

It uses `overlay` and `dfw`; nothing in those knows it.
"""

from dfw import __version__

__all__ = ["__version__"]
