# SPDX-License-Identifier: Apache-2.0
"""What is asked: the attributes of a request by which it is allowed or not, and the sentence when it is not."""

from __future__ import annotations

from dataclasses import dataclass

from supervisor_glue.api.status import ApiError, error_forbidden
from supervisor_glue.auth.user import User


@dataclass(frozen=True, slots=True)
class Attributes:
    """Of a resource, or (no `resource`) of a path that is none.

    `verb`: get, list, watch, create, update, patch, delete, deletecollection; of a path the HTTP method in small
    letters.
    `name`: empty where the request names no object; of a list or watch whose field selector is `metadata.name=X`, X.
    `fields`: what the field selector requires to be equal (`(("spec.nodeName", "esx-1"),)`).
    """

    user: User
    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    fields: tuple[tuple[str, str], ...] = ()

    @property
    def combined(self) -> str:
        """The resource as rules name it: `pods`, `pods/log`."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


def forbidden(asked: Attributes, why: str = "") -> ApiError:
    """403, in the words of k8s.io/apiserver's responsewriters."""
    user = f'User "{asked.user.name}" cannot {asked.verb}'
    reason = f": {why}" if why else ""
    if not asked.resource:
        return ApiError(403, "Forbidden", f'forbidden: {user} path "{asked.path}"{reason}')
    where = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
    sentence = f'{user} resource "{asked.combined}" in API group "{asked.group}" {where}{reason}'
    return error_forbidden(asked.resource, asked.group, asked.name, sentence)
