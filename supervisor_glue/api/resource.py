# SPDX-License-Identifier: Apache-2.0
"""A request for a resource, once it is allowed: read what was sent, do it, write the answer."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from supervisor_glue.api.apply import applied_decode, apply_merge
from supervisor_glue.api.defaults import object_default
from supervisor_glue.api.incoming import object_read, options_read, typed, value_read
from supervisor_glue.api.kinds import NAMESPACES, PODS
from supervisor_glue.api.listing import Listing
from supervisor_glue.api.managed_fields import managed_update, manager_name
from supervisor_glue.api.media import Form, list_written, object_written, written
from supervisor_glue.api.metadata import time_text
from supervisor_glue.api.objects import Deletion, Objects
from supervisor_glue.api.patch import patch_apply
from supervisor_glue.api.pod_security import pod_security_check
from supervisor_glue.api.request import Options, Target
from supervisor_glue.api.schema import schema_of
from supervisor_glue.api.selectors import selector_parse
from supervisor_glue.api.status import (
    ApiError,
    Cause,
    Object,
    error_bad_request,
    error_invalid,
    error_no_such_path,
    error_not_found,
)
from supervisor_glue.api.strategy import condition_set
from supervisor_glue.api.watch_cache import Entry, WatchCache
from supervisor_glue.api.watch_stream import watch_lines
from supervisor_glue.auth.admission import admitted
from supervisor_glue.auth.attributes import Attributes
from supervisor_glue.auth.authorize import Authorizer
from supervisor_glue.auth.user import User

APPLY: Final = "application/apply-patch+yaml"
_WATCH_SECONDS: Final = (1800.0, 3600.0)


@dataclass(frozen=True, slots=True)
class Request:
    """An allowed request, its body read."""

    user: User
    target: Target
    options: Options
    form: Form
    body: bytes
    media: str
    agent: str

    @property
    def manager(self) -> str:
        """Whose fields the request's are."""
        return manager_name(self.options.manager, self.agent)


class Answer(NamedTuple):
    status: int
    body: bytes
    warnings: tuple[str, ...] = ()


Review = Callable[[Request, Object], Object]
"""Answers an object that is only asked."""


class ResourceHandler:
    """`reviews`: by kind, what is asked and not stored; `parts`: of subresources that make something else (token)."""

    def __init__(
        self,
        objects: Objects,
        cache: WatchCache,
        authorizer: Authorizer,
        reviews: dict[str, Review],
        parts: dict[tuple[str, str], Review],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.objects, self.cache, self.authorizer, self.clock = objects, cache, authorizer, clock
        self.reviews, self.parts = reviews, parts
        self.listing = Listing(cache)

    def attributes(self, user: User, target: Target, options: Options) -> Attributes:
        """Of a request, for who allows it."""
        kind = target.kind
        fields = selector_parse(kind, "", options.fields).fields if options.fields else ()
        equal = tuple((path, value) for path, same, value in fields if same)
        many = target.verb in ("list", "watch", "deletecollection")
        name = target.name or (dict(equal).get("metadata.name", "") if many else "")
        return Attributes(
            user,
            target.verb,
            kind.group,
            kind.version,
            kind.plural,
            target.subresource,
            target.name if kind is NAMESPACES else target.namespace,
            name,
            fields=equal,
        )

    async def handle(self, request: Request) -> Answer:
        """Raises ApiError."""
        target = request.target
        if not target.kind.stored:
            return self._review(request)
        match target.verb:
            case "get":
                return await self._get(request)
            case "list":
                return await self._list(request)
            case "create":
                return await (self._create_part(request) if target.subresource else self._create(request))
            case "update":
                return await self._update(request)
            case "patch":
                return await self._patch(request)
            case "delete":
                return await self._delete(request)
        return await self._delete_collection(request)

    async def watch(self, target: Target, options: Options, form: Form) -> AsyncGenerator[bytes, None]:
        """Raises ApiError."""
        fields = options.fields
        if target.name:
            fields = f"{fields},metadata.name={target.name}".strip(",")
        selector = selector_parse(target.kind, options.labels, fields)
        after = int(options.revision) if options.revision not in ("", "0") else None
        await self.cache.wait_bounded(after or 0)
        return watch_lines(
            self.cache,
            target.kind,
            target.namespace,
            selector,
            after,
            form,
            self.clock,
            include=options.given.get("includeObject", ""),
            bookmarks=options.bookmarks,
            initial=options.initial,
            seconds=options.timeout or random.uniform(*_WATCH_SECONDS),
        )

    # ---- reading ----------------------------------------------------------------------------------------------

    async def _get(self, request: Request) -> Answer:
        target = request.target
        if target.subresource not in ("", "status", "approval"):
            raise error_no_such_path()  # what is no part of the object, nobody here answers
        await self.cache.fresh()
        entry = self.cache.get(target.kind, target.namespace, target.name)
        if entry is None:
            raise error_not_found(target.kind.plural, target.kind.group, target.name)
        return self._answer(request, 200, entry)

    async def _list(self, request: Request) -> Answer:
        target, options = request.target, request.options
        selector = selector_parse(target.kind, options.labels, options.fields)
        page = await self.listing.page(target.kind, target.namespace, selector, options)
        include = options.given.get("includeObject", "")
        return Answer(200, list_written(target.kind, page.entries, page.metadata, request.form, self.clock(), include))

    # ---- writing ----------------------------------------------------------------------------------------------

    async def _create(self, request: Request) -> Answer:
        target, options = request.target, request.options
        item, warnings = object_read(target.kind, request.body, request.media, options.validation)
        entry = await self.objects.create(
            target.kind, target.namespace, item, self._finish(request), dry_run=options.dry_run
        )
        return self._answer(request, 201, entry, warnings)

    async def _update(self, request: Request) -> Answer:
        target, options = request.target, request.options
        item, warnings = object_read(target.kind, request.body, request.media, options.validation)
        name = item["metadata"].get("name")
        if name != target.name:
            told = f"the name of the object ({name or ''}) does not match the name on the URL ({target.name})"
            raise error_bad_request(told)
        entry, made = await self.objects.change(
            target.kind,
            target.namespace,
            target.name,
            lambda old: item,
            self._finish(request),
            subresource=target.subresource,
            dry_run=options.dry_run,
        )
        return self._answer(request, 201 if made else 200, entry, warnings)

    async def _patch(self, request: Request) -> Answer:
        target, options = request.target, request.options
        kind = target.kind
        schema = schema_of(kind.group, kind.version, kind.kind)
        media = request.media.partition(";")[0].strip().lower()
        warnings: list[str] = []
        if media == APPLY:
            return await self._apply(request)
        if options.force:
            told = "Forbidden: may not be specified for non-apply patch"
            raise error_invalid("PatchOptions", "meta.k8s.io", "", [Cause("FieldValueForbidden", told, "force")])

        def change(old: Object | None) -> Object:
            assert old is not None
            found = patch_apply(schema, old, request.body, request.media, options.validation or "Warn")
            warnings[:] = found.warnings
            return typed(kind.group_version, kind.kind, _body(found.object)).value  # type: ignore[no-any-return]

        entry, _ = await self.objects.change(
            kind,
            target.namespace,
            target.name,
            change,
            self._finish(request),
            subresource=target.subresource,
            dry_run=options.dry_run,
        )
        return self._answer(request, 200, entry, tuple(warnings))

    async def _apply(self, request: Request) -> Answer:
        """Server-side apply (https://kubernetes.io/docs/reference/using-api/server-side-apply/)."""
        target, options = request.target, request.options
        kind = target.kind
        if not options.manager:
            told = "Required value: is required for apply patch"
            raise error_invalid("PatchOptions", "meta.k8s.io", "", [Cause("FieldValueRequired", told, "fieldManager")])
        schema = schema_of(kind.group, kind.version, kind.kind)
        body = typed(kind.group_version, kind.kind, value_read(request.body, "application/yaml"))
        applied, warnings = applied_decode(schema, body, options.validation)
        name = applied["metadata"].setdefault("name", target.name)
        if name != target.name:
            told = f"the name of the object ({name}) does not match the name on the URL ({target.name})"
            raise error_bad_request(told)
        if target.namespace:
            applied["metadata"].setdefault("namespace", target.namespace)

        def change(old: Object | None) -> Object:
            return apply_merge(
                schema,
                old,
                applied,
                options.manager,
                options.force,
                time_text(self.clock()),
                target.subresource,
                lambda item: object_default(kind, item),
            )

        def finish(old: Object | None, new: Object) -> Object:
            return self._admitted(request, old, new)

        entry, made = await self.objects.change(
            kind,
            target.namespace,
            target.name,
            change,
            finish,
            subresource=target.subresource,
            dry_run=options.dry_run,
            create=not target.subresource,
        )
        return self._answer(request, 201 if made else 200, entry, warnings)

    def _finish(self, request: Request) -> Callable[[Object | None, Object], Object]:
        kind = request.target.kind
        schema = schema_of(kind.group, kind.version, kind.kind)

        def finish(old: Object | None, new: Object) -> Object:
            new = managed_update(schema, old, new, request.manager, time_text(self.clock()), request.target.subresource)
            return self._admitted(request, old, new)

        return finish

    def _admitted(self, request: Request, old: Object | None, new: Object) -> Object:
        """Nobody gives rights that he has not, a host writes its own part, and a pod asks for what pods may have."""
        if old is None and request.target.kind is PODS:
            namespace = self.cache.get(NAMESPACES, "", request.target.namespace)
            pod_security_check(new, None if namespace is None else namespace.item)
        return admitted(self.authorizer, self.attributes(request.user, request.target, request.options), new, old)

    # ---- deleting ---------------------------------------------------------------------------------------------

    async def _delete(self, request: Request) -> Answer:
        target, kind = request.target, request.target.kind
        options = deletion_of(request)
        item, gone = await self.objects.delete(kind, target.namespace, target.name, options)
        if gone and not kind.returned:
            details = {"name": target.name, "group": kind.group, "kind": kind.plural, "uid": item["metadata"]["uid"]}
            document: Object = {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Success",
                "details": {key: value for key, value in details.items() if value},
            }
            return Answer(200, written(document, request.form))
        return Answer(200, object_written(kind, item, request.form, self.clock()))

    async def _delete_collection(self, request: Request) -> Answer:
        target, kind = request.target, request.target.kind
        selector = selector_parse(kind, request.options.labels, request.options.fields)
        options = deletion_of(request)
        await self.cache.fresh()
        entries = self.cache.list(kind, target.namespace, selector)
        for entry in entries:
            try:
                await self.objects.delete(kind, entry.namespace, entry.name, replace(options, uid="", revision=""))
            except ApiError as error:
                if error.code != 404:
                    raise
        metadata = {"resourceVersion": str(self.cache.revision)}
        return Answer(200, list_written(kind, entries, metadata, request.form, self.clock()))

    # ---- what is no plain object -------------------------------------------------------------------------------

    def _review(self, request: Request) -> Answer:
        kind = request.target.kind
        item, warnings = object_read(kind, request.body, request.media, request.options.validation)
        answer = self.reviews[kind.kind](request, item)
        return Answer(201, object_written(kind, answer, request.form, self.clock()), warnings)

    async def _create_part(self, request: Request) -> Answer:
        target = request.target
        if target.kind is PODS and target.subresource == "binding":
            return await self._bind(request)
        if target.kind is PODS and target.subresource == "eviction":
            return await self._delete(request)
        part = self.parts.get((target.kind.kind, target.subresource))
        if part is None:
            raise error_not_found(target.kind.plural, target.kind.group, f"{target.name}/{target.subresource}")
        item = options_read(request.body, request.media)
        await self.cache.fresh()
        if self.cache.get(target.kind, target.namespace, target.name) is None:
            raise error_not_found(target.kind.plural, target.kind.group, target.name)
        return Answer(201, written(part(request, item), request.form))

    async def _bind(self, request: Request) -> Answer:
        """A pod gets its host, once."""
        target = request.target
        binding = typed("v1", "Binding", value_read(request.body, request.media)).value
        aim = binding.get("target")
        host = aim.get("name") if isinstance(aim, dict) else None
        if not host or not isinstance(host, str):
            raise error_invalid(
                "Binding", "", target.name, [Cause("FieldValueRequired", "Required value", "target.name")]
            )

        def change(old: Object | None) -> Object:
            assert old is not None
            known = old["spec"].get("nodeName")
            if known:
                told = f'pod {target.name} is already assigned to node "{known}"'
                raise ApiError(
                    409, "Conflict", f'Operation cannot be fulfilled on pods/binding "{target.name}": {told}'
                )
            if "deletionTimestamp" in old["metadata"]:
                told = f"pod {target.name} is being deleted, cannot be assigned to a host"
                raise ApiError(
                    409, "Conflict", f'Operation cannot be fulfilled on pods/binding "{target.name}": {told}'
                )
            old["spec"]["nodeName"] = host
            condition_set(old, "PodScheduled", "True", self.clock())
            return old

        await self.objects.change(
            PODS,
            target.namespace,
            target.name,
            change,
            self._finish(request),
            subresource="binding",
            dry_run=request.options.dry_run,
        )
        document = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        return Answer(201, written(document, request.form))

    def _answer(self, request: Request, status: int, entry: Entry, warnings: tuple[str, ...] = ()) -> Answer:
        include = request.options.given.get("includeObject", "")
        return Answer(status, object_written(request.target.kind, entry, request.form, self.clock(), include), warnings)


def deletion_of(request: Request) -> Deletion:
    """A DELETE's options, from its body and its query. Raises ApiError 400, 422."""
    body = options_read(request.body, request.media)
    if request.target.subresource == "eviction":
        body = body.get("deleteOptions") or {}
    if "propagationPolicy" in body or request.options.propagation:
        policy = str(body.get("propagationPolicy") or request.options.propagation)
        if policy not in ("Background", "Foreground", "Orphan"):
            told = f'Unsupported value: "{policy}": supported values: "Foreground", "Background", "Orphan", "nil"'
            cause = Cause("FieldValueNotSupported", told, "propagationPolicy")
            raise error_invalid("DeleteOptions", "meta.k8s.io", "", [cause])
    else:
        policy = "Orphan" if body.get("orphanDependents") else ""
    conditions: Any = body.get("preconditions") or {}
    grace = body.get("gracePeriodSeconds", request.options.grace)
    if not isinstance(conditions, dict) or (
        grace is not None and (not isinstance(grace, int) or isinstance(grace, bool))
    ):
        raise error_bad_request("DeleteOptions: preconditions is an object, gracePeriodSeconds a number")
    dry = body.get("dryRun") or []
    if dry not in ([], ["All"]):
        cause = Cause("FieldValueNotSupported", 'Unsupported value: supported values: "All"', "dryRun")
        raise error_invalid("DeleteOptions", "meta.k8s.io", "", [cause])
    return Deletion(
        None if grace is None else max(0, grace),
        policy,
        str(conditions.get("uid") or ""),
        str(conditions.get("resourceVersion") or ""),
        request.options.dry_run or bool(dry),
    )


def _body(value: Any) -> Any:
    from supervisor_glue.api.body import Body

    return Body(value, ())
