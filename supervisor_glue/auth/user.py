# SPDX-License-Identifier: Apache-2.0
"""Who asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

AUTHENTICATED: Final = "system:authenticated"
MASTERS: Final = "system:masters"
"""May do everything, whatever the objects say: processes of the Supervisor itself, never somebody's file."""
NODES: Final = "system:nodes"
NODE: Final = "system:node:"
BOOTSTRAP: Final = "system:bootstrap:"
BOOTSTRAPPERS: Final = "system:bootstrappers"
ACCOUNT: Final = "system:serviceaccount:"
ACCOUNTS: Final = "system:serviceaccounts"
ADMINISTRATORS: Final = "palisade:administrators"
CONTROLLERS: Final = "palisade:controllers"
FRONT_PROXY: Final = "palisade:front-proxy"
"""API servers, to whom they pass requests on: they say whose a request was."""


@dataclass(frozen=True, slots=True)
class User:
    """A user as UserInfo of authentication.k8s.io/v1 has it; `extra` in the order of its keys."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def host(self) -> str:
        """The host that this is, by its certificate; empty: it is none."""
        return self.name.removeprefix(NODE) if self.name.startswith(NODE) and NODES in self.groups else ""


def user_of_account(
    namespace: str, name: str, uid: str = "", extra: tuple[tuple[str, tuple[str, ...]], ...] = ()
) -> User:
    """A ServiceAccount as a user."""
    groups = (ACCOUNTS, f"{ACCOUNTS}:{namespace}", AUTHENTICATED)
    return User(f"{ACCOUNT}{namespace}:{name}", groups, uid, extra)
