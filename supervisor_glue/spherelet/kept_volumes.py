# SPDX-License-Identifier: Apache-2.0
"""A pod's volumes, kept as the objects behind them are: those say when they change, and nobody asks."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from supervisor_glue.api.status import Object
from supervisor_glue.controllers.objects import annotations_of, labels_of, spec_of
from supervisor_glue.spherelet.access import access_given, access_volume
from supervisor_glue.spherelet.sources import Sources
from supervisor_glue.spherelet.volumes import apply_files, followed_keys, look_seconds, volume_files

Blocking = Callable[[Callable[[], bool]], Awaitable[bool]]


class KeptVolumes:
    """Of the pod with this uid, in `folder`. `changed` is called when `sync` has something to do; `blocking` runs what
    takes a while."""

    def __init__(
        self, sources: Sources, uid: str, folder: Path, blocking: Blocking, changed: Callable[[], None]
    ) -> None:
        self.has_access = False
        self._sources, self._uid, self._folder = sources, uid, folder
        self._blocking, self._tell = blocking, changed
        self._at = 0.0
        self._stale = True
        self._fields: tuple[object, object] = ({}, {})

    @property
    def are_there(self) -> bool:
        """Whether they have been whole once."""
        return self._at > 0

    async def sync(self, pod: Object, pauses: list[float]) -> None:
        """Make them as they should be now. Raises MissingError, ApiError, ConnectionError, OSError."""
        self.has_access = self.has_access or await access_given(pod, self._sources)
        volumes = [*(spec_of(pod).get("volumes") or ()), *([access_volume()] if self.has_access else ())]
        if not volumes:
            return
        now, fields = time.monotonic(), (labels_of(pod), annotations_of(pod))
        every = look_seconds(volumes)
        left = None if every is None else self._at + every - now
        if self.are_there and not self._stale and fields == self._fields and (left is None or left > 0):
            if left is not None:
                pauses.append(left)
            return
        self._sources.follow(self._uid, followed_keys(pod), self._changed)
        group = (spec_of(pod).get("securityContext") or {}).get("fsGroup")
        self._stale = False  # what changes from here on is looked at again
        try:
            for volume in volumes:
                files = await volume_files(pod, volume, self._sources)
                folder = self._folder / volume["name"]
                if files is not None:
                    await self._blocking(lambda folder=folder, files=files: apply_files(folder, files, group))  # type: ignore[misc]
        except BaseException:
            self._stale = True
            raise
        self._at, self._fields = now, fields
        if every is not None:
            pauses.append(every)

    def close(self) -> None:
        """Nothing is followed any more."""
        self._sources.leave(self._uid)

    def _changed(self) -> None:
        self._stale = True
        self._tell()
