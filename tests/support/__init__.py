# SPDX-License-Identifier: Apache-2.0
"""Generators and helpers that several test modules share."""
