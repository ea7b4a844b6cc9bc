# SPDX-License-Identifier: Apache-2.0
"""Packet agents of a Supervisor's hosts are killed at random moments while pods talk over TCP and policies change: no
connection breaks, no byte is lost, nothing passes that is denied, and what was asked for last is in force."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from supervisor_glue.controllers.resources import HOST_STATUSES, NETWORK_POLICIES, PODS
from tests.support.pods_talk import Talk, agent_kill, policy, talkers_make
from tests.support.supervisor_lab import SupervisorLab, holds, supervisor_lab

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_mount,
    pytest.mark.needs_tun,
    pytest.mark.long,
]
KILLS = 200
HOSTS = ("esx-1", "esx-2")


@pytest.fixture(scope="module")
def lab() -> Iterator[SupervisorLab]:
    with supervisor_lab() as found:
        talkers_make(found)
        yield found


def test_pods_do_not_notice_that_agents_are_killed(lab: SupervisorLab) -> None:
    before = {item["metadata"]["name"]: item["metadata"]["uid"] for item in lab.reaches(PODS, bool)}
    talk = Talk(lab)
    spec = {"podSelector": {"matchLabels": {"app": "stranger"}}, "policyTypes": ["Ingress"]}
    killed = 0
    try:
        talk.progress()
        for number in range(KILLS):
            time.sleep(random.uniform(0, 0.3))
            killed += agent_kill(lab, random.choice(HOSTS))
            if number % 10 == 3:
                lab.apply([policy("changes", spec)])
            elif number % 10 == 8:
                lab.delete([policy("changes", spec)])
            if random.random() < 0.8:  # else another one at once
                talk.progress()
        lab.apply([policy("last", spec)])
        lab.reaches(NETWORK_POLICIES, lambda items: all(holds(item, "Realized") for item in items))
        talk.progress()
        assert not talk.errors and talk.tried and killed > KILLS // 2
    finally:
        talk.close()
    assert not talk.errors, talk.errors
    after = lab.reaches(PODS, bool)
    assert {item["metadata"]["name"]: item["metadata"]["uid"] for item in after} == before
    assert all(item["status"]["containerStatuses"][0]["restartCount"] == 0 for item in after)
    assert not any((item["status"] or {}).get("problems") for item in lab.reaches(HOST_STATUSES, bool))
