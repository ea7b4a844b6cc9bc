# SPDX-License-Identifier: Apache-2.0
"""What is to be done with a container that has ended, and what its pod's phase is meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor_glue.spherelet.records import ContainerFolder, ContainerState, Ended
from supervisor_glue.spherelet.status import Seen, failures_next, has_ended, pod_status, start_in

NOW = 1000.0


def state_of(code: int | None, *, again: bool = False, failures: int = 0) -> ContainerState:
    ended = None if code is None else Ended(code, "Error", NOW - 5, NOW - 1)
    return ContainerState(1, failures, None, NOW - 5, ended, image="host", again=again)


@pytest.mark.parametrize(
    ("policy", "code", "again", "pause"),
    [
        ("Always", None, False, None),
        ("Always", 0, False, 9.0),  # ended a second ago, and failed once before
        ("Always", 0, True, 0.0),
        ("OnFailure", 0, False, None),
        ("OnFailure", 0, True, 0.0),
        ("OnFailure", 1, False, 9.0),
        ("Never", 1, False, None),
        ("Never", 1, True, 0.0),
        ("Never", None, True, None),  # it runs: it has to be stopped first
    ],
)
def test_when_a_container_starts_again(policy: str, code: int | None, again: bool, pause: float | None) -> None:
    state = state_of(code, again=again, failures=1)
    assert start_in(state, policy, NOW) == pause
    assert has_ended(state, policy) == (code is not None and pause is None)


def test_another_image_does_not_count_as_a_failure() -> None:
    assert failures_next(state_of(1, failures=3)) == 4
    assert failures_next(state_of(1, failures=3, again=True)) == 0


@pytest.mark.parametrize(("again", "phase"), [(False, "Failed"), (True, "Running")])
def test_a_pod_that_gets_another_image_has_not_ended(again: bool, phase: str) -> None:
    pod: dict[str, Any] = {
        "metadata": {"name": "x", "generation": 2},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "other"}]},
    }
    status = pod_status(pod, {"main": Seen(state_of(1, again=again))}, True, True, NOW, NOW, "")
    assert status["phase"] == phase


def test_what_is_written_down_is_read_again(tmp_path: Any) -> None:
    place = ContainerFolder(tmp_path, "uid/main")
    for state in (state_of(1, again=True), state_of(None)):
        place.state_write(state)
        assert place.state_read() == state
    record = place.folder / "state.json"
    older = record.read_text(encoding="utf-8").replace(', "image": "host", "again": false', "")
    assert "image" not in older
    record.write_text(older, encoding="utf-8")  # as a Spherelet before this one wrote it
    assert (place.state_read().image, place.state_read().again) == (None, False)
