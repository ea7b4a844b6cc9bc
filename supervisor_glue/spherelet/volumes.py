# SPDX-License-Identifier: Apache-2.0
"""A pod's volumes: folders of the run directory that are mounted into its containers.

A ConfigMap's or Secret's files are exchanged all at once: the folder's `..data` is a link to a folder of one state,
which is replaced by another link (as k8s.io/kubernetes/pkg/volume/util's AtomicWriter does it).
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from overlay import linux
from overlay.container_root import Mount
from supervisor_glue.api.status import Object
from supervisor_glue.controllers.objects import namespace_of, spec_of
from supervisor_glue.controllers.quantity import whole
from supervisor_glue.spherelet.environment import expanded, field_value, resource_value
from supervisor_glue.spherelet.sources import Key, MissingError, Sources

_DATA: Final = "..data"
_MODE: Final = 0o644
_TOKEN_SECONDS: Final = 3600
LOOK_SECONDS: Final = 300.0
"""So often volumes are looked at although nothing they show is said to have changed."""


class File(NamedTuple):
    """A file of a volume."""

    content: bytes
    mode: int = _MODE


def followed_keys(pod: Object) -> Iterator[Key]:
    """The ConfigMaps and Secrets whose changes a pod's volumes follow."""
    for volume in spec_of(pod).get("volumes") or ():
        for source in (volume, *((volume.get("projected") or {}).get("sources") or ())):
            for kind in ("configMap", "secret"):
                found = source.get(kind) or {}
                name = found.get("secretName") or found.get("name")
                if name:
                    yield kind, namespace_of(pod), str(name)


def look_seconds(volumes: Iterable[Mapping[str, Any]]) -> float | None:
    """How often volumes are looked at when nobody says that something has changed; None: never. A token is another
    one when four fifths of its life are over."""
    if all("emptyDir" in volume for volume in volumes):
        return None
    every = LOOK_SECONDS
    for volume in volumes:
        for source in (volume.get("projected") or {}).get("sources") or ():
            asked = source.get("serviceAccountToken")
            if asked:
                every = min(every, float(asked.get("expirationSeconds") or _TOKEN_SECONDS) / 10)
    return every


async def volume_files(pod: Object, volume: Mapping[str, Any], sources: Sources) -> dict[str, File] | None:
    """A volume's files by path; None: it is an empty folder. Raises MissingError, ApiError, ConnectionError."""
    if "emptyDir" in volume:
        return None
    for kind in ("configMap", "secret", "downwardAPI"):
        if kind in volume:
            return await _files_of(pod, kind, volume[kind] or {}, volume[kind].get("defaultMode"), sources)
    if "projected" in volume:
        found: dict[str, File] = {}
        projected = volume["projected"] or {}
        for source in projected.get("sources") or ():
            for kind in ("configMap", "secret", "downwardAPI"):
                if source.get(kind):
                    found |= await _files_of(pod, kind, source[kind], projected.get("defaultMode"), sources)
            asked = source.get("serviceAccountToken")
            if asked:
                seconds = int(asked.get("expirationSeconds") or _TOKEN_SECONDS)
                token = await sources.token(pod, asked.get("audience") or "", seconds)
                found[asked["path"]] = File(token.encode(), int(projected.get("defaultMode") or _MODE))
        return found
    kinds = ", ".join(sorted(set(volume) - {"name"}))
    raise MissingError(f'volume "{volume["name"]}": {kinds or "no source"} is not supported')


async def _files_of(
    pod: Object, kind: str, source: Mapping[str, Any], default: int | None, sources: Sources
) -> dict[str, File]:
    mode = _MODE if default is None else int(default)
    if kind == "downwardAPI":
        return {item["path"]: File(_downward(pod, item), int(item.get("mode") or mode)) for item in source["items"]}
    name = source.get("secretName") or source.get("name") or ""
    optional = bool(source.get("optional"))
    data = await sources.needed(kind, namespace_of(pod), name, optional=optional)
    if not source.get("items"):
        return {key: File(value, mode) for key, value in data.items()}
    found = {}
    for item in source["items"]:
        if item["key"] in data:
            found[item["path"]] = File(data[item["key"]], int(item.get("mode") or mode))
        elif not optional:
            raise MissingError(f"references non-existent {kind.lower()} key: {item['key']}")
    return found


def _downward(pod: Object, item: Mapping[str, Any]) -> bytes:
    if item.get("fieldRef"):
        return field_value(pod, item["fieldRef"]["fieldPath"]).encode()
    return resource_value(pod, {}, item["resourceFieldRef"]).encode()


def apply_files(folder: Path, files: Mapping[str, File], group: int | None = None) -> bool:
    """Make a folder hold these files, all at once; `group` may read them. Whether anything changed. Raises OSError,
    MissingError."""
    digest = _digest(files)
    link = folder / _DATA
    if link.is_symlink() and os.readlink(link) == f"..{digest}":
        return False
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    state = folder / f"..{digest}"
    shutil.rmtree(state, ignore_errors=True)
    for path, file in files.items():
        parts = path.split("/")
        if path.startswith(("/", "..")) or ".." in parts or not path:
            raise MissingError(f"invalid path of a volume's file: {path!r}")
        place = state / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.content)
        place.chmod(file.mode if group is None else file.mode | 0o440)
        if group is not None:
            os.chown(place, -1, group)
    state.mkdir(exist_ok=True)
    fresh = folder / f"..new-{secrets.token_hex(4)}"
    fresh.symlink_to(state.name)
    before = folder / os.readlink(link) if link.is_symlink() else None
    fresh.rename(link)
    wanted = {path.split("/")[0] for path in files}
    for name in wanted:
        entry = folder / name
        if not entry.is_symlink():
            entry.symlink_to(f"{_DATA}/{name}")
    for entry in folder.iterdir():
        if not entry.name.startswith("..") and entry.name not in wanted:
            entry.unlink()
    if before is not None:
        shutil.rmtree(before, ignore_errors=True)
    return True


def _digest(files: Mapping[str, File]) -> str:
    digest = sha256()
    for path, file in sorted(files.items()):
        digest.update(repr((path, file.mode, file.content)).encode())
    return digest.hexdigest()[:32]


def apply_empties(pod: Object, folder: Path) -> None:
    """A pod's emptyDirs, before its sandbox is there: what is mounted later its mount namespace does not have. Raises
    OSError."""
    spec = spec_of(pod)
    for volume in spec.get("volumes") or ():
        if "emptyDir" in volume:
            apply_empty(folder / volume["name"], volume, (spec.get("securityContext") or {}).get("fsGroup"))


def apply_empty(folder: Path, volume: Mapping[str, Any], group: int | None = None) -> None:
    """An emptyDir: a folder, or memory; what is made in it belongs to `group`. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    source = volume.get("emptyDir") or {}
    if source.get("medium") == "Memory" and not os.path.ismount(folder):
        limit = f",size={whole(source['sizeLimit'])}" if source.get("sizeLimit") else ""
        flags = linux.MS_NOSUID | linux.MS_NODEV
        linux.mount("palisade-volume", str(folder), "tmpfs", flags, f"mode=1777{limit}")
    if group is None:
        folder.chmod(0o1777)
        return
    os.chown(folder, -1, group)
    folder.chmod(0o3777)


def limited_empties(pod: Object) -> dict[str, str]:
    """The limits of a pod's emptyDirs that nothing holds but looking: by volume, as written."""
    found = {}
    for volume in spec_of(pod).get("volumes") or ():
        source = volume.get("emptyDir") or {}
        if source.get("sizeLimit") and source.get("medium") != "Memory":
            found[str(volume["name"])] = str(source["sizeLimit"])
    return found


def read_exceeded(limits: Mapping[str, str], folder: Path) -> str:
    """Which emptyDir holds more than it may, in kubelet's words (pkg/kubelet/eviction); empty: none."""
    for name, limit in limits.items():
        if usage(folder / name) > whole(limit):
            return f'Usage of EmptyDir volume "{name}" exceeds the limit "{limit}". '
    return ""


def usage(folder: Path) -> int:
    """Bytes on disk of what is in a folder, a file with several names once. What goes meanwhile is not counted."""
    seen: set[tuple[int, int]] = set()
    total = 0
    waiting = [str(folder)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    if (found.st_dev, found.st_ino) not in seen:
                        seen.add((found.st_dev, found.st_ino))
                        total += found.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return total


def apply_volumes_end(folder: Path) -> None:
    """Remove a pod's volumes. Raises OSError."""
    for volume in folder.iterdir() if folder.is_dir() else ():
        while os.path.ismount(volume):
            for entry in volume.iterdir():  # pods that began meanwhile have the mount, too, and would keep its memory
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)
            linux.umount(str(volume), linux.MNT_DETACH)


def mounts_of(pod: Object, container: Object, folder: Path, environment: Mapping[str, str]) -> list[Mount]:
    """Where a container sees which volume. `environment`: its own, that a subPathExpr may name. Raises MissingError."""
    volumes = {volume["name"]: volume for volume in spec_of(pod).get("volumes") or ()}
    found = []
    for mount in container.get("volumeMounts") or ():
        volume = volumes.get(mount["name"])
        if volume is None:
            raise MissingError(f'volume "{mount["name"]}" not found')
        source = folder / mount["name"]
        part = mount.get("subPath") or expanded(mount.get("subPathExpr") or "", environment)
        if ".." in part.split("/") or part.startswith("/"):
            raise MissingError(f"invalid subPath {part!r}")
        if part:
            whole_volume, source = source.resolve(), source / part
            is_within = source.resolve().is_relative_to(whole_volume)
            if is_within and "emptyDir" in volume and not source.exists():
                source.mkdir(parents=True)
                source.chmod(whole_volume.stat().st_mode & 0o7777)  # whoever may write to the volume may write here
            if not is_within or not source.exists():
                raise MissingError(f'subPath "{part}" of volume "{mount["name"]}" is not there')
        read_only = bool(mount.get("readOnly")) or "emptyDir" not in volume
        found.append(Mount(source=str(source.resolve()), target=mount["mountPath"], read_only=read_only))
    return found
