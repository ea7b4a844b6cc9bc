# SPDX-License-Identifier: Apache-2.0
"""Unit tests for policies: what the fixtures `palisade_policy`, `palisade_traffic` and
`palisade_replay` do, rule coverage, mutations.

pytest loads dfw/pytest_plugin.py, which imports this package when a fixture is used; `palisade test` (command.py) adds
session.py. Nothing here is imported by a plain pytest run that does not use the fixtures.
"""
