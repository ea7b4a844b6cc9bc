# SPDX-License-Identifier: Apache-2.0
"""`lab status`: what there is of a lab, and what its hosts' agents say of themselves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dfw.output import counted, render_table
from overlay.lab_agents import agent_status
from overlay.lab_record import LabPaths, LabRecord
from overlay.lab_view import PodPlace, lab_view
from overlay.linux import process_lives
from overlay.timer import boot_seconds
from overlay.underlay import TEP_WIRE

# What is taken over from an agent's answer as it stands.
_SAID = ("tier", "revision_realized", "vnics", "connections", "drops")


def read_status(paths: LabPaths, record: LabRecord) -> dict[str, Any]:
    """The answer of `lab status -o json`. What only an agent knows is null where none answers."""
    view = lab_view(paths, record)
    world = view.world
    with ThreadPoolExecutor(max_workers=8) as pool:
        said = dict(zip(record.hosts, pool.map(lambda name: agent_status(paths, name), record.hosts), strict=True))
    hosts = []
    for name, answer in said.items():
        known = world.inventory.hosts.get(name)
        row: dict[str, Any] = {
            "name": name,
            "netns": str(paths.host_netns(name)),
            "underlay": TEP_WIRE,
            "tep": None if known is None else str(known.tep),
            "revision_wanted": view.wanted.get(name, 0),
            **{key: (answer or {}).get(key) for key in _SAID},
            "agent": "answers" if answer is not None else "silent",
        }
        hosts.append(row)
    return {
        "name": record.name,
        "revision": record.revision if view.supervisor is None else max(view.wanted.values(), default=0),
        "supervisor": None if view.supervisor is None else dict(view.supervisor),
        "hosts": hosts,
        "segments": [{"name": item.name, "vni": item.vni} for item in world.inventory.segments.values()],
        "pending": _pending(record),
        "pods": [_pod(name, place) for name, place in view.pods.items()],
    }


def _pending(record: LabRecord) -> dict[str, Any] | None:
    """The change that waits to be confirmed."""
    if record.pending is None:
        return None
    return {
        "base": record.pending.base,
        "seconds_left": round(max(record.pending.deadline - boot_seconds(), 0.0), 1),
        "timer": "runs" if process_lives(record.pending.timer) else "ended",
    }


def _pod(name: str, pod: PodPlace) -> dict[str, Any]:
    return {
        "name": name,
        "host": pod.host,
        "netns": str(pod.netns),
        "state": "ended" if pod.process is None else "running",
        "pid": None if pod.process is None else pod.process.pid,
        "unlimited": list(pod.unlimited),
    }


def render_status(data: dict[str, Any]) -> str:
    """For people."""
    columns = ["host", "tep", "tier", "wanted", "realized", "vnics", "connections", "drops", "agent"]
    keys = ["name", "tep", "tier", "revision_wanted", "revision_realized", "vnics", "connections", "drops", "agent"]
    hosts = [["-" if item[key] is None else item[key] for key in keys] for item in data["hosts"]]
    running = [pod for pod in data["pods"] if pod["state"] == "running"]
    segments = ", ".join(f"{item['name']} ({item['vni']})" for item in data["segments"])
    lines = [f"lab {data['name']}, revision {data['revision']}; segments {segments or 'none'}"]
    if data["supervisor"] is not None:
        lines.append(f"Supervisor at {data['supervisor']['server']}, kubeconfig {data['supervisor']['kubeconfig']}")
    lines.append("")
    lines += [render_table(columns, hosts, numbers=(3, 4, 5, 6, 7)), ""]
    ended = [pod["name"] for pod in data["pods"] if pod not in running]
    if data["pending"] is not None:
        pending = data["pending"]
        when = f"in {pending['seconds_left']} s" if pending["timer"] == "runs" else "never: its timer was killed"
        lines.append(f"not confirmed: revision {pending['base']} comes back {when} (`palisade apply --confirmed`)")
    lines.append(counted(len(running), "pod runs", "pods run") + (f"; ended: {', '.join(ended)}" if ended else ""))
    return "\n".join(lines)
