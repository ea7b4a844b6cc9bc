# SPDX-License-Identifier: Apache-2.0
"""What a real kube-apiserver 1.20.2 answered, asked of ours: status, kind, shape and every field that means something.

`DIFFERENT` lists what is otherwise here, and why.
"""

from __future__ import annotations

import gzip
import json
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor_glue.auth.kubeconfig import kubeconfig_read
from supervisor_glue.auth.tls import client_context
from tests.support.control_plane import control_plane

SERVERS_OWN = frozenset(
    ("uid", "resourceVersion", "creationTimestamp", "time", "continue", "remainingItemCount", "selfLink")
)
"""Fields whose values are the server's own."""

DIFFERENT: tuple[tuple[str, str, str], ...] = (
    # which answers, which places in them, why
    ("disc /version", ".*", "each server's own"),
    ("disc /apis?(/v1)?", r"\.(serverAddressByClientCIDRs|groups|resources).*", "other groups and kinds are served"),
    (
        "disc /apis/.*",
        r"\.(versions|resources).*",
        "only v1, no Ingress; 1.20 left singularName empty; a NetworkPolicy has"
        " a status here, which says whether it is in force",
    ),
    (
        ".*",
        r".*\.metadata\.labels\.kubernetes\.io/metadata\.name",
        "since 1.21 a Namespace carries its name as a label",
    ),
    ("create ns", r".*\.fieldsV1\.f:status", "since 1.22 who creates an object does not manage its status"),
    ("limit1", r"\.items\[0\]\.metadata\..*", "the same, and nobody manages the fields of what the server makes"),
    (".*(pod|list|sel|patch|strategic).*", r".*\.metadata\.generation", "since 1.33 a Pod has a generation"),
    (".*table|list all", r"\.columnDefinitions\[\d+\]\.description", "texts were changed since"),
    (".*table|list all", r"\.rows\[0\]\.cells\[[24]\]", "ages"),
    (".*pods? table", r"\.(columnDefinitions\[3\]\.type|rows\[0\]\.cells\[3\])", "since 1.22 restarts are text"),
    (".*", r".*\.managedFields.*\.f:kubernetes\.io/metadata\.name", "since 1.21, as above"),
)
"""What is otherwise here."""


def recorded() -> list[dict[str, Any]]:
    path = Path(__file__).resolve().parent.parent.parent.parent / "shared/data/kube-apiserver-golden/golden.json.gz"
    if not path.exists():
        return []
    with gzip.open(path) as file:
        found: list[dict[str, Any]] = json.load(file)
    return found


ENTRIES = [entry for entry in recorded() if "path" in entry]


class Asker:
    def __init__(self, kubeconfig: Path) -> None:
        self.config = kubeconfig_read(kubeconfig)
        self.context: ssl.SSLContext = client_context(self.config.authority, self.config.identity)

    def __call__(self, entry: dict[str, Any]) -> tuple[int, str, Any]:
        body = entry["request"]
        data = None if body is None else (body if isinstance(body, str) else json.dumps(body)).encode()
        headers = {"Accept": entry["accept"], "User-Agent": "python-requests/2.28.1"}
        if entry["content_type"]:
            headers["Content-Type"] = entry["content_type"]
        request = urllib.request.Request(
            self.config.server + entry["path"], data=data, headers=headers, method=entry["method"]
        )
        try:
            with urllib.request.urlopen(request, context=self.context) as response:
                status, media, content = response.status, response.headers["Content-Type"], response.read()
        except urllib.error.HTTPError as error:
            status, media, content = error.code, error.headers["Content-Type"], error.read()
        return status, media, json.loads(content) if "json" in media else content.decode()


@pytest.fixture(scope="module")
def asker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    with control_plane(tmp_path_factory.mktemp("recorded"), "--no-controllers") as plane:
        yield Asker(plane.kubeconfig)


@pytest.fixture(scope="module")
def answers(asker: Asker) -> dict[str, tuple[int, str, Any]]:
    """All requests in their order, to a server of their own."""
    return {entry["name"]: asker(entry) for entry in ENTRIES}


def meaning(value: Any) -> Any:
    """Without what is each server's own."""
    if isinstance(value, dict):
        return {key: meaning(item) for key, item in value.items() if key not in SERVERS_OWN}
    return [meaning(item) for item in value] if isinstance(value, list) else value


@pytest.mark.needs_shared_data("kube-apiserver-golden")
@pytest.mark.parametrize("entry", ENTRIES, ids=[entry["name"] for entry in ENTRIES])
def test_answers_as_recorded(entry: dict[str, Any], answers: dict[str, tuple[int, str, Any]]) -> None:
    status, media, found = answers[entry["name"]]
    assert status == entry["status"], found
    assert media.partition(";")[0] == entry["response_content_type"].partition(";")[0]
    wanted = entry["response"]
    if not isinstance(wanted, dict):
        assert found == wanted
        return
    left = [place for place in differences(meaning(found), meaning(wanted), "") if not is_known(entry["name"], place)]
    assert not left, json.dumps(found)[:3000]


@pytest.mark.needs_shared_data("kube-apiserver-golden")
def test_events_as_recorded(answers: dict[str, tuple[int, str, Any]], asker: Asker) -> None:
    """The watch that the recorder had open while it made, changed and deleted a policy."""
    (wanted,) = (entry["response"] for entry in recorded() if entry["name"] == "watch events")
    after = (
        answers["dryrun"][2]["metadata"].get("resourceVersion")
        or answers["ssa create"][2]["metadata"]["resourceVersion"]
    )
    path = "/apis/networking.k8s.io/v1/namespaces/g1/networkpolicies"
    query = f"?watch=true&timeoutSeconds=1&fieldSelector=metadata.name%3Dw1&resourceVersion={after}"
    request = urllib.request.Request(asker.config.server + path + query)
    with urllib.request.urlopen(request, context=asker.context) as response:
        found = [json.loads(line) for line in response]
    assert meaning(found) == meaning(wanted)


def differences(found: Any, wanted: Any, place: str) -> Iterator[str]:
    """Paths where two values are not the same."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            if key in found and key in wanted:
                yield from differences(found[key], wanted[key], f"{place}.{key}")
            else:
                yield f"{place}.{key}"
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            yield from differences(one, other, f"{place}[{number}]")
    elif found != wanted:
        yield place


def is_known(name: str, place: str) -> bool:
    return any(re.fullmatch(names, name) and re.fullmatch(places, place) for names, places, _ in DIFFERENT)
