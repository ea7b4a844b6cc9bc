# SPDX-License-Identifier: Apache-2.0
"""What a protocol tracker answers, apart from the reasons of refusal."""

from __future__ import annotations

ACCEPTED = "accepted"
PASSED_OVER = "passed over"  # accepted, but it changes and refreshes nothing
REOPENED = "reopened"  # the connection ends, and the packet begins another
