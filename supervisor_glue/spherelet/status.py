# SPDX-License-Identifier: Apache-2.0
"""What is to be done with a container, and a pod's status from what its containers are doing. Pure.

Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/, and by behaviour
k8s.io/kubernetes/pkg/kubelet (kubelet_pods.go, status/generate.go).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from supervisor_glue.api.conditions import condition_made, conditions_with
from supervisor_glue.api.status import Object
from supervisor_glue.controllers.objects import condition_of, spec_of, status_of, time_text
from supervisor_glue.spherelet.records import ContainerState, Ended

FIRST_PAUSE: Final = 10.0
LONGEST_PAUSE: Final = 300.0
HEALTHY_SECONDS: Final = 600.0
"""A container that ran so long has not failed in a row with those before."""
OURS: Final = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


@dataclass(frozen=True, slots=True)
class Seen:
    """A container as its pod's worker sees it. `waiting`: why it does not run, where its author is to blame; `started`,
    `ready`: what its probes say."""

    state: ContainerState
    started: bool = False
    ready: bool = False
    waiting: tuple[str, str] | None = None


NOT_SEEN: Final = Seen(ContainerState())


def pause_of(failures: int) -> float:
    """Seconds between an end and the next start: none before the first restart, then 10, doubling, up to 300."""
    return min(FIRST_PAUSE * 2.0 ** min(failures - 1, 10), LONGEST_PAUSE) if failures > 0 else 0.0


def restarts(ended: Ended, policy: str) -> bool:
    """Whether a container that ended so is started again."""
    return policy == "Always" or (policy == "OnFailure" and ended.code != 0)


def has_ended(state: ContainerState, policy: str) -> bool:
    """Whether a container has ended for good."""
    return state.ended is not None and not state.again and not restarts(state.ended, policy)


def start_in(state: ContainerState, policy: str, now: float) -> float | None:
    """Seconds until a container is to be started, 0: now; None: never (it runs, or has ended for good)."""
    if state.starts == 0:
        return 0.0
    if state.ended is None or has_ended(state, policy):
        return None
    if state.again:
        return 0.0
    return max(0.0, state.ended.finished + pause_of(state.failures) - now)


def failures_next(state: ContainerState) -> int:
    """The count of restarts in a row, with the one that comes now."""
    if state.starts == 0 or state.ended is None or state.again:
        return 0
    if state.ended.finished - state.ended.started > HEALTHY_SECONDS:
        return 0
    return state.failures + 1


def policy_of(pod: Object, container: Object, *, is_init: bool) -> str:
    """A container's restart policy: an init container's is to be started again until it has done its work, or for ever
    (restartPolicy: Always makes it one that stays)."""
    if container.get("restartPolicy") == "Always":
        return "Always"
    policy = str(spec_of(pod).get("restartPolicy") or "Always")
    return "OnFailure" if is_init and policy == "Always" else policy


def is_sidecar(container: Object) -> bool:
    """An init container that stays beside the others."""
    return container.get("restartPolicy") == "Always"


def pod_status(
    pod: Object,
    seen: Mapping[str, Seen],
    initialized: bool,
    sandboxed: bool,
    started: float,
    now: float,
    host: str,
    evicted: str = "",
) -> Object:
    """The part of a pod's status that is its host's. `seen`: by container; `sandboxed`: its namespaces and its vNIC are
    there; `host`: the host's address; `evicted`: why the host has ended it."""
    spec, old = spec_of(pod), status_of(pod)
    init, main = spec.get("initContainers") or [], spec.get("containers") or []
    phase = "Failed" if evicted else _phase(pod, seen, initialized)
    ended = phase in ("Succeeded", "Failed")
    waiting = "ContainerCreating" if not init or initialized else "PodInitializing"
    statuses = [_container(item, seen, "PodInitializing" if init and not initialized else waiting) for item in main]
    staying = [*(item for item in init if is_sidecar(item)), *main]
    not_ready = [item["name"] for item in staying if not seen.get(item["name"], NOT_SEEN).ready]
    ready = initialized and not not_ready and not ended
    status: Object = {
        "phase": phase,
        "startTime": old.get("startTime") or time_text(started),
        "containerStatuses": statuses,
        "observedGeneration": pod["metadata"].get("generation"),
    }
    if evicted:
        status |= {"reason": "Evicted", "message": evicted}
    if host:
        status |= {"hostIP": host, "hostIPs": [{"ip": host}]}
        if spec.get("hostNetwork"):
            status |= {"podIP": host, "podIPs": [{"ip": host}]}
    if init:
        status["initContainerStatuses"] = [_container(item, seen, "PodInitializing") for item in init]
    why: tuple[str, str] = ("", "")
    if ended:
        why = ("PodCompleted" if phase == "Succeeded" else "PodFailed", "")
    elif not_ready:
        why = ("ContainersNotReady", f"containers with unready status: [{' '.join(not_ready)}]")
    not_initialized = ("", "")
    if not initialized:
        names = [
            item["name"]
            for item in init
            if not (last := seen.get(item["name"], NOT_SEEN).state.ended) or last.code != 0
        ]
        not_initialized = ("ContainersNotInitialized", f"containers with incomplete status: [{' '.join(names)}]")
    elif phase == "Succeeded":
        not_initialized = ("PodCompleted", "")
    gates = [gate["conditionType"] for gate in spec.get("readinessGates") or ()]
    open_gates = [gate for gate in gates if (condition_of(pod, gate) or {}).get("status") != "True"]
    gated = (
        ("ReadinessGatesNotReady", f'the status of pod readiness gate {open_gates[0]!r} is not "True"')
        if open_gates
        else ("", "")
    )
    wanted = [
        ("PodReadyToStartContainers", sandboxed and not ended, ("", "")),
        ("Initialized", initialized, not_initialized),
        ("Ready", ready and not open_gates, why if not ready else gated),
        ("ContainersReady", ready, why),
        ("PodScheduled", True, ("", "")),
    ]
    status["conditions"] = _conditions(pod, wanted, now)
    if evicted:
        held = status["conditions"]
        made = condition_made(held, "DisruptionTarget", "True", now, "TerminationByKubelet", evicted)
        status["conditions"] = conditions_with(held, made)
    return status


def _phase(pod: Object, seen: Mapping[str, Seen], initialized: bool) -> str:
    spec = spec_of(pod)
    if status_of(pod).get("phase") in ("Succeeded", "Failed"):
        return str(status_of(pod)["phase"])  # a pod that has ended stays so
    for item in spec.get("initContainers") or ():
        ended = seen.get(item["name"], NOT_SEEN).state.ended
        if ended is not None and ended.code != 0 and not restarts(ended, policy_of(pod, item, is_init=True)):
            return "Failed"
    if not initialized:
        return "Pending"
    states = [
        (seen.get(item["name"], NOT_SEEN).state, policy_of(pod, item, is_init=False)) for item in spec["containers"]
    ]
    if any(state.starts == 0 for state, _ in states):
        return "Pending"
    if not all(has_ended(state, policy) for state, policy in states):
        return "Running"
    return "Failed" if any(state.ended and state.ended.code for state, _ in states) else "Succeeded"


def _container(container: Object, seen: Mapping[str, Seen], reason: str) -> Object:
    name = container["name"]
    found = seen.get(name, NOT_SEEN)
    state = found.state
    identifier = f"palisade://{name}-{state.starts}" if state.starts else ""
    current: Object
    if found.waiting is not None:
        current = {"waiting": _told(*found.waiting)}
    elif state.starts == 0:
        current = {"waiting": {"reason": reason}}
    elif state.ended is not None:
        current = {"terminated": _terminated(state.ended, identifier)}
    else:
        current = {"running": {"startedAt": time_text(state.started)}}
    before = state.ended if found.waiting is not None and state.ended is not None else state.last
    made: Object = {
        "name": name,
        "image": container.get("image") or "",
        "imageID": "",
        "containerID": identifier,
        "restartCount": state.restarts,
        "ready": found.ready,
        "started": found.started,
        "state": current,
        "lastState": {},
    }
    if before is not None:
        number = state.starts if before is state.ended else state.starts - 1
        made["lastState"] = {"terminated": _terminated(before, f"palisade://{name}-{number}")}
    return made


def _terminated(ended: Ended, identifier: str) -> Object:
    made: Object = {
        "exitCode": ended.code,
        "reason": ended.reason,
        "startedAt": time_text(ended.started),
        "finishedAt": time_text(ended.finished),
        "containerID": identifier,
    }
    if ended.message:
        made["message"] = ended.message
    return made


def _told(reason: str, message: str) -> Object:
    return {"reason": reason, "message": message} if message else {"reason": reason}


def _conditions(pod: Object, wanted: Sequence[tuple[str, bool, tuple[str, str]]], now: float) -> list[Object]:
    """Ours as they are now, the others' as they are; times of transition change with the status only."""
    made: list[Object] = []
    held = status_of(pod).get("conditions") or ()
    for kind, is_true, (reason, message) in wanted:
        why = reason if reason and (not is_true or kind == "Initialized") else None
        told = message if message and not is_true else None
        made.append(condition_made(held, kind, "True" if is_true else "False", now, why, told))
    others = [dict(item) for item in held if item.get("type") not in OURS]
    return made + others
