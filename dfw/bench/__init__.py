# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: what they time, and the generators of what they run on."""
