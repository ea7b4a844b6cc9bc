# SPDX-License-Identifier: Apache-2.0
"""The compiled part of the distribution; everything else is in pyproject.toml.

With PALISADE_CORE=external the packet core is left to `make build`, which compiles only what changed.
"""

import os

from setuptools import setup

if os.environ.get("PALISADE_CORE") == "external":
    setup()
else:
    setup(cffi_modules=["native/build.py:ffibuilder"])
