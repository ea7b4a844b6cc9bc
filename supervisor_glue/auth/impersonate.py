# SPDX-License-Identifier: Apache-2.0
"""Asking as somebody else (`kubectl --as`), for who may
(https://kubernetes.io/docs/reference/access-authn-authz/user-impersonation/)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

from supervisor_glue.api.status import error_bad_request
from supervisor_glue.auth.attributes import Attributes
from supervisor_glue.auth.authenticate import with_authenticated
from supervisor_glue.auth.authorize import Authorizer
from supervisor_glue.auth.user import ACCOUNT, User, user_of_account

_USER: Final = "impersonate-user"
_GROUP: Final = "impersonate-group"
_UID: Final = "impersonate-uid"
_EXTRA: Final = "impersonate-extra-"
_AUTHENTICATION: Final = "authentication.k8s.io"


def impersonated(authorizer: Authorizer, user: User, headers: Iterable[tuple[str, str]]) -> User:
    """Who is to be asked for: the user, or the one that its headers name. Raises ApiError 400, 403."""
    names, groups, uids, extra = [], [], [], dict[str, list[str]]()
    for name, value in headers:
        key = name.lower()
        if key == _USER:
            names.append(value)
        elif key == _GROUP:
            groups.append(value)
        elif key == _UID:
            uids.append(value)
        elif key.startswith(_EXTRA):
            extra.setdefault(unquote(key.removeprefix(_EXTRA)), []).append(value)
    if not (names or groups or uids or extra):
        return user
    if len(names) != 1 or not names[0] or len(uids) > 1:
        raise error_bad_request("impersonation needs one Impersonate-User, and at most one Impersonate-Uid")
    meant = _meant(names[0], groups, uids[0] if uids else "", extra)
    for asked in _questions(user, meant, groups):
        authorizer.check(asked)
    return meant


def _meant(name: str, groups: list[str], uid: str, extra: dict[str, list[str]]) -> User:
    told = tuple(sorted((key, tuple(values)) for key, values in extra.items()))
    account = _account(name)
    if account is not None and not groups:
        return user_of_account(*account, uid, told)
    return User(name, with_authenticated(groups), uid, told)


def _account(name: str) -> tuple[str, str] | None:
    namespace, colon, account = name.removeprefix(ACCOUNT).partition(":")
    return (namespace, account) if name.startswith(ACCOUNT) and colon and namespace and account else None


def _questions(user: User, meant: User, groups: list[str]) -> Iterable[Attributes]:
    """What the user must be allowed for that."""
    account = _account(meant.name)
    if account is None:
        yield Attributes(user, "impersonate", resource="users", name=meant.name)
    else:
        yield Attributes(user, "impersonate", resource="serviceaccounts", namespace=account[0], name=account[1])
    for group in groups:
        yield Attributes(user, "impersonate", resource="groups", name=group)
    if meant.uid:
        yield Attributes(user, "impersonate", _AUTHENTICATION, resource="uids", name=meant.uid)
    for key, values in meant.extra:
        for value in values:
            yield Attributes(user, "impersonate", _AUTHENTICATION, resource="userextras", subresource=key, name=value)
