# SPDX-License-Identifier: Apache-2.0
"""What of an agent's own requests is asked of it through the API."""

from __future__ import annotations

import json

import pytest

from supervisor_glue.asking import CHANGES, LINE_BYTES, READS, AskingError, asked_read, verb_of

HOSTILE = [
    "",
    "{",
    "[]",
    "null",
    '"show"',
    "{}",
    '{"do": 1}',
    '{"do": ["show"]}',
    "[" * 10_000,
    json.dumps({"do": "show", "what": "x" * LINE_BYTES}),
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_request_is_a_sentence(text: str) -> None:
    with pytest.raises(AskingError, match="an object with the member do"):
        asked_read(text)


@pytest.mark.parametrize("what", ["end", "apply", "attach", "detach", "move", "places", "paths", "no-such"])
def test_what_would_end_or_feed_an_agent_is_asked_beside_it_only(what: str) -> None:
    with pytest.raises(AskingError, match=f"{what!r} is not asked through the API; what is: capture, "):
        asked_read(json.dumps({"do": what}))


def test_whoever_reads_needs_get_and_whoever_changes_create() -> None:
    verbs = {what: verb_of(asked_read(json.dumps({"do": what}))) for what in sorted(READS | CHANGES)}
    assert {what for what, verb in verbs.items() if verb == "create"} == {"kill", "reset", "trace"}
    assert set(verbs.values()) == {"get", "create"}
