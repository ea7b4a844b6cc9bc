# SPDX-License-Identifier: Apache-2.0
"""Putting the agent on a host, and taking it off again: the host is as it was (docs/host-footprint.md).

`plan_install` says what there shall be, `apply_install` makes what is not there yet and remembers what it made;
`apply_uninstall` takes away exactly that, after the agent has ended and its wires are gone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from overlay.ask import AskError, agent_ask
from overlay.attachment import ATTACHED, MOUNTED, Attachment, Attachments
from overlay.holder import HOLDER_SOCKET, HolderClient, HolderError
from overlay.host_unit import UNIT, render_unit
from overlay.hoststate import StateError, file_replace, state_read
from overlay.linux import Process, process_lives, process_signal
from overlay.namespace import apply_namespace_end, namespace_exists
from overlay.sysctl_keep import BEFORE, restore_sysctls
from overlay.tap_port import apply_tap_end
from overlay.timer import pending_read, timer_end
from overlay.uplink import TEP_INTERFACE, plan_uplink, remove_uplink

CONFIG: Final = Path("etc/palisade")
STATE: Final = Path("var/lib/palisade")
RUN: Final = Path("run/palisade-agent")  # not where labs are
LOGS: Final = Path("var/log/palisade")
UNITS: Final = Path("etc/systemd/system")
WANTS: Final = UNITS / "multi-user.target.wants"
MANIFEST: Final = STATE / "installed.json"
RUNNING: Final = (
    f"/{RUN} (sockets, connections), /{STATE} (last good state, settings as they were), /{LOGS} (firewall log)",
    "on the underlay interface: the TEP's address, or a route, a neighbour and proxy ARP for it; routes to other TEPs",
    "the interface tep0 (tier A) and settings under net.ipv4 or net.ipv6",
)
_PATIENCE: Final = 15.0


class InstallError(RuntimeError):
    """The host cannot be changed like that: a sentence."""


class Manifest(msgspec.Struct):
    """What `install` made, in order, and what the agent is told. Paths are relative to the root."""

    host: str
    underlay: str
    made: list[str] = []
    version: int = 1


@dataclass(frozen=True, slots=True)
class InstallStep:
    """Something that shall be there. `what`: folder, file (`text`), link (`text`: to where)."""

    what: str
    path: Path
    text: str = ""
    mode: int = 0o755


def agent_command(host: str, underlay: str, desired: str, uplink: str) -> list[str]:
    """The agent's command line on a host."""
    places = ["--desired", desired, "--run", f"/{RUN}", "--state", f"/{STATE}", "--log-dir", f"/{LOGS}"]
    command = [sys.executable, "-m", "dfw", "agent", "run", "--host", host, "--underlay", underlay]
    return [*command, "--uplink", uplink, *places]


def plan_install(command: Sequence[str], desired: str) -> tuple[InstallStep, ...]:
    """What there shall be, in order. `desired`: the file that `command` names."""
    return (
        InstallStep("folder", CONFIG),
        InstallStep("folder", STATE, mode=0o700),
        InstallStep("folder", UNITS),
        InstallStep("file", UNITS / UNIT, render_unit(command, str(Path(desired).parent)), 0o644),
        InstallStep("folder", WANTS),
        InstallStep("link", WANTS / UNIT, f"/{UNITS / UNIT}"),
    )


def plan_missing(root: Path, steps: Sequence[InstallStep]) -> tuple[InstallStep, ...]:
    """What of it is not there yet, or is otherwise."""
    return tuple(step for step in steps if not _is_so(root, step))


def _is_so(root: Path, step: InstallStep) -> bool:
    path = root / step.path
    if step.what == "folder":
        return path.is_dir()
    if step.what == "link":
        return path.is_symlink() and os.readlink(path) == step.text
    return path.is_file() and path.read_text(encoding="utf-8") == step.text


def apply_install(root: Path, steps: Sequence[InstallStep], host: str, underlay: str) -> None:
    """Make what is missing. Raises OSError, InstallError: then what was made until there is in the manifest."""
    manifest = read_manifest(root) or Manifest(host, underlay)
    manifest.host, manifest.underlay = host, underlay
    for step in steps:
        path = root / step.path
        made = list(_make(root, path, step))
        manifest.made += [name for name in made if name not in manifest.made]
        if (root / STATE).is_dir():
            file_replace(root / MANIFEST, msgspec.json.encode(manifest))


def _make(root: Path, path: Path, step: InstallStep) -> Iterator[str]:
    if step.what == "folder":
        for folder in reversed([path, *path.parents]):
            if root in folder.parents and not folder.exists():
                folder.mkdir(mode=step.mode if folder == path else 0o755)
                yield str(folder.relative_to(root))
    elif step.what == "link":
        if path.is_symlink() or path.exists():
            if not path.is_symlink():
                raise InstallError(f"{path} is there and not ours")
            path.unlink()
        path.symlink_to(step.text)
        yield str(step.path)
    else:
        file_replace(path, step.text.encode(), step.mode)
        yield str(step.path)


def read_manifest(root: Path) -> Manifest | None:
    """What was installed; None where nothing was. Raises InstallError."""
    try:
        return msgspec.json.decode((root / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise InstallError(f"{root / MANIFEST} cannot be read: {error}") from None


def plan_uninstall(manifest: Manifest, purge: bool) -> tuple[Path, ...]:
    """What is taken away, in order. Without `purge` configuration, state, logs and the note of what was made stay."""
    kept = () if purge else (CONFIG, STATE)
    made = [Path(name) for name in reversed(manifest.made)]
    going = [path for path in made if not any(path == keep or path in keep.parents for keep in kept)]
    return (RUN, *((LOGS, MANIFEST) if purge else ()), *going)


def apply_uninstall(root: Path, manifest: Manifest, purge: bool) -> list[str]:
    """Take away what was made. Folders that others have put something into stay, and are named."""
    notes = []
    if (pending := pending_read(root / STATE)) is not None:
        timer_end(pending)  # there is nothing left that could go back
    for item in _attached(root):
        if item.tap and namespace_exists(Path(item.netns)):
            apply_tap_end(item.interface, Path(item.netns), was_up=item.was_up)
    for mounted in (root / RUN).glob(f"{MOUNTED}*"):
        apply_namespace_end(mounted)
    ours = {RUN, LOGS, CONFIG, STATE}  # all that is in there is the agent's, or for it
    for path in plan_uninstall(manifest, purge):
        whole = root / path
        if path in ours:
            shutil.rmtree(whole, ignore_errors=True)
        elif whole.is_dir() and not whole.is_symlink():
            with contextlib.suppress(OSError):
                whole.rmdir()
        else:
            whole.unlink(missing_ok=True)
        if whole.exists() or whole.is_symlink():
            notes.append(f"{whole} stays: it is not empty")
    return notes


def interfaces() -> list[str]:
    """The network interfaces of this namespace that could carry Geneve."""
    return sorted(name for _, name in socket.if_nameindex() if name not in ("lo", TEP_INTERFACE))


def _attached(root: Path) -> Iterable[Attachment]:
    try:
        return Attachments(root / STATE / ATTACHED).known.values()
    except StateError:
        return ()


def has_systemd() -> bool:
    """Whether systemd runs this machine (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None


def systemctl(*words: str) -> str | None:
    """Run it. What it complained of; None where it was content."""
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False, timeout=60)
    return None if done.returncode == 0 else (done.stderr or done.stdout).strip()


def apply_end(run: Path) -> list[str]:
    """End a host's agent and its holder: the vNICs go. Returns sentences about what does not end."""
    processes = _processes(run)
    with contextlib.suppress(AskError):
        agent_ask(run / "agent.sock", {"do": "end", "holder": True})
    with contextlib.suppress(OSError, HolderError):
        holder = HolderClient(str(run / HOLDER_SOCKET))
        holder.end()
        holder.close()
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _PATIENCE
        for process in processes if number else ():
            process_signal(process, number or signal.SIGTERM)
        while any(map(process_lives, processes)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not any(map(process_lives, processes)):
            return []
    return [f"process {process.pid} does not end" for process in processes if process_lives(process)]


def _processes(run: Path) -> list[Process]:
    try:
        found = msgspec.json.decode((run / "pids.json").read_bytes(), type=dict[str, tuple[int, int | None]])
    except (OSError, msgspec.DecodeError):
        return []
    return [Process(pid, start) for pid, start in found.values() if start is not None]


def apply_unwire(state: Path, underlay: str) -> list[str]:
    """Take the TEP's addresses, routes and neighbours away and put kernel settings back. Returns what was done."""
    with contextlib.suppress(OSError, StateError):
        told = state_read(state / "state.json")
        for tier in "AB":
            remove_uplink(plan_uplink(tier, underlay, told.tep, [tep.ip for tep in told.teps], told.underlay_mtu))
    return restore_sysctls(state / BEFORE)
