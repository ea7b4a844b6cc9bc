# SPDX-License-Identifier: Apache-2.0
"""RBAC against its slow twin, the sentences of its refusals, escalation, and what the default roles mean."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor_glue.api.kinds import KINDS
from supervisor_glue.api.status import ApiError
from supervisor_glue.auth import reviews
from supervisor_glue.auth.attributes import Attributes
from supervisor_glue.auth.authorize import Authorizer
from supervisor_glue.auth.defaults import default_roles, plan_aggregated, plan_defaults
from supervisor_glue.auth.escalation import escalation_check
from supervisor_glue.auth.rbac import Rbac
from supervisor_glue.auth.rules import rule_read, rule_text, rules_compact, rules_cover, rules_read
from supervisor_glue.auth.user import User
from tests.conftest import LONG
from tests.support import rbac_twin

GROUP = "rbac.authorization.k8s.io"
JANE = User("jane", ("team", "system:authenticated"))


def role(
    name: str, *rules: dict[str, Any], namespace: str = "", labels: dict[str, str] | None = None
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": labels or {}}
    if namespace:
        metadata["namespace"] = namespace
    return {"kind": "Role" if namespace else "ClusterRole", "metadata": metadata, "rules": list(rules)}


def binding(
    name: str, of: str, *subjects: tuple[str, str], namespace: str = "", cluster: bool = True
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    return {
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": metadata,
        "roleRef": {"kind": "ClusterRole" if cluster else "Role", "name": of},
        "subjects": [{"kind": kind, "name": who, "namespace": "shop"} for kind, who in subjects],
    }


def pods(*verbs: str, **rest: Any) -> dict[str, Any]:
    return {"verbs": list(verbs), "apiGroups": [""], "resources": ["pods"], **rest}


def asked(verb: str, resource: str, namespace: str = "x", name: str = "", **rest: Any) -> Attributes:
    return Attributes(rest.pop("user", JANE), verb, resource=resource, namespace=namespace, name=name, **rest)


def refusal(authorizer: Authorizer, attributes: Attributes) -> dict[str, Any]:
    with pytest.raises(ApiError) as caught:
        authorizer.check(attributes)
    return caught.value.status()


# Against the twin.

_verbs = st.sampled_from(["get", "list", "delete", "*"])
_groups = st.sampled_from(["", "apps", "*"])
_resources = st.sampled_from(["pods", "secrets", "pods/log", "*/log", "*"])
_names = st.sampled_from(["a", "b"])
_paths = st.sampled_from(["/api", "/api/*", "*", "/metrics"])


def _some(values: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(values, min_size=1, max_size=2, unique=True)


_rules = st.one_of(
    st.fixed_dictionaries(
        {"verbs": _some(_verbs), "apiGroups": _some(_groups), "resources": _some(_resources)},
        optional={"resourceNames": _some(_names)},
    ),
    st.fixed_dictionaries({"verbs": _some(_verbs), "nonResourceURLs": _some(_paths)}),
)
_spaces = st.sampled_from(["", "x", "y"])
_labels = st.sampled_from([{}, {"to": "edit"}, {"to": "view"}])


@st.composite
def _roles(draw: st.DrawFn) -> dict[str, Any]:
    made = role(
        draw(st.sampled_from("rst")), *draw(st.lists(_rules, max_size=3)), namespace=draw(_spaces), labels=draw(_labels)
    )
    if made["kind"] == "ClusterRole" and draw(st.integers(0, 3)) == 0:
        made["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": draw(_labels)}]}
        made["metadata"]["labels"] = {"no": "match"} if made["aggregationRule"]["clusterRoleSelectors"] else {}
    return made


@st.composite
def _bindings(draw: st.DrawFn) -> dict[str, Any]:
    namespace = draw(_spaces)
    subjects = draw(
        st.lists(
            st.sampled_from([("User", "jane"), ("Group", "team"), ("ServiceAccount", "robot"), ("User", "joe")]),
            max_size=2,
        )
    )
    cluster = True if not namespace else draw(st.booleans())
    return binding(
        draw(st.sampled_from("bc")), draw(st.sampled_from("rst")), *subjects, namespace=namespace, cluster=cluster
    )


_users = st.sampled_from(
    [JANE, User("joe", ("system:authenticated",)), User("system:serviceaccount:shop:robot", ("team",)), User("nobody")]
)
_changes = st.lists(st.tuples(st.one_of(_roles(), _bindings()), st.booleans()), max_size=14)


@settings(max_examples=4000 if LONG else 60, deadline=None)
@given(_changes, _users, st.data())
def test_the_index_is_the_twin(changes: list[tuple[dict[str, Any], bool]], user: User, data: st.DataObject) -> None:
    """After every history of objects that come, change and go."""
    rbac, held = Rbac(), dict[tuple[str, str, str], dict[str, Any]]()
    for item, is_put in changes:
        key = (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"])
        if is_put:
            held[key] = item
            rbac.put(item)
        else:
            held.pop(key, None)
            rbac.forget(*key)
    objects, groups = list(held.values()), list(user.groups)
    for _ in range(4):
        verb, group = data.draw(st.sampled_from(["get", "list"])), data.draw(st.sampled_from(["", "apps"]))
        resource, subresource = data.draw(
            st.sampled_from([("pods", ""), ("pods", "log"), ("secrets", ""), ("x", "log")])
        )
        namespace, name = data.draw(_spaces), data.draw(st.sampled_from(["", "a", "c"]))
        wanted = rbac_twin.allows(objects, user.name, groups, verb, group, resource, subresource, namespace, name)
        question = Attributes(user, verb, group, "v1", resource, subresource, namespace=namespace, name=name)
        assert rbac.allows(question) == wanted
        path = data.draw(st.sampled_from(["/api", "/api/v1", "/metrics", "/"]))
        wanted = rbac_twin.allows_path(objects, user.name, groups, verb, path)
        assert rbac.allows(Attributes(user, verb, path=path)) == wanted


@settings(max_examples=4000 if LONG else 60, deadline=None)
@given(st.lists(_rules, max_size=3), st.lists(_rules, max_size=3), st.data())
def test_covered_rules_allow_nothing_new(
    held: list[dict[str, Any]], wanted: list[dict[str, Any]], data: st.DataObject
) -> None:
    """What is covered allows no request that those that are held don't; and what is missing, added, is covered."""
    missing = rules_cover(rules_read(held), rules_read(wanted))
    assert not rules_cover((*rules_read(held), *missing), rules_read(wanted))
    assert not rules_cover((*rules_read(held), *rules_compact(missing)), rules_read(wanted))
    if missing:
        return
    for rule in wanted:
        if "resources" not in rule:
            continue
        verb = data.draw(st.sampled_from(["get", "list", "delete"]))
        resource, subresource = data.draw(st.sampled_from([("pods", ""), ("pods", "log"), ("secrets", "")]))
        question = (verb, data.draw(st.sampled_from(["", "apps"])), resource, subresource, data.draw(_names))
        if rbac_twin.rule_allows(rule, *question):
            assert any(rbac_twin.rule_allows(one, *question) for one in held if "resources" in one)


# Sentences.


def test_the_forbidden_sentences_are_kubernetes_own() -> None:
    authorizer = Authorizer()
    status = refusal(authorizer, asked("list", "pods"))
    assert status["message"] == (
        'pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "x"'
    )
    assert (status["reason"], status["code"], status["details"]) == ("Forbidden", 403, {"kind": "pods"})
    assert refusal(authorizer, asked("get", "pods", name="web", subresource="log"))["message"] == (
        'pods "web" is forbidden: User "jane" cannot get resource "pods/log" in API group "" in the namespace "x"'
    )
    assert refusal(authorizer, asked("create", "clusterroles", "", group=GROUP))["message"] == (
        f'clusterroles.{GROUP} is forbidden: User "jane" cannot create resource "clusterroles" in API group "{GROUP}" '
        "at the cluster scope"
    )
    status = refusal(authorizer, Attributes(JANE, "get", path="/metrics"))
    assert status["message"] == 'forbidden: User "jane" cannot get path "/metrics"'
    assert "details" not in status


def test_a_rule_in_words() -> None:
    rule = rule_read(pods("get", "list", resourceNames=["a"]))
    assert rule_text(rule) == '{APIGroups:[""], Resources:["pods"], ResourceNames:["a"], Verbs:["get" "list"]}'
    rule = rule_read({"verbs": ["get"], "nonResourceURLs": ["/api/*"]})
    assert rule_text(rule) == '{NonResourceURLs:["/api/*"], Verbs:["get"]}'


def test_only_names_that_a_request_has_match_resource_names() -> None:
    rbac = Rbac([role("r", pods("get", "create", resourceNames=["a"])), binding("b", "r", ("User", "jane"))])
    assert rbac.allows(asked("get", "pods", name="a"))
    assert not rbac.allows(asked("get", "pods", name="b")) and not rbac.allows(asked("create", "pods"))


def test_masters_need_no_role() -> None:
    assert Rbac().allows(asked("delete", "secrets", user=User("x", ("system:masters",))))


# Escalation.


def _world(*objects: dict[str, Any]) -> Rbac:
    editor = role("editor", {"verbs": ["*"], "apiGroups": [GROUP], "resources": ["roles", "rolebindings"]}, pods("get"))
    editor["rules"][0]["verbs"] = ["create", "update", "patch"]
    return Rbac([editor, binding("b", "editor", ("User", "jane"), namespace="x"), *objects])


def _refused(rbac: Rbac, item: dict[str, Any], old: dict[str, Any] | None = None, user: User = JANE) -> str:
    with pytest.raises(ApiError) as caught:
        escalation_check(rbac, user, item, old)
    return caught.value.message


def test_nobody_grants_what_he_has_not() -> None:
    rbac = _world()
    escalation_check(rbac, JANE, role("mine", pods("get"), namespace="x"))
    assert _refused(rbac, role("mine", pods("get", "list", "delete"), namespace="x")) == (
        f'roles.{GROUP} "mine" is forbidden: user "jane" (groups=["team" "system:authenticated"]) is attempting to '
        'grant RBAC permissions not currently held:\n{APIGroups:[""], Resources:["pods"], Verbs:["list" "delete"]}'
    )
    assert "not currently held" in _refused(rbac, role("mine", pods("get"), namespace="y"))
    assert "not currently held" in _refused(rbac, role("mine", pods("*"), namespace="x"))
    assert "not currently held" in _refused(rbac, role("mine", pods("get")))


def test_escalate_is_a_verb_of_its_own() -> None:
    rule = {"verbs": ["escalate"], "apiGroups": [GROUP], "resources": ["roles"], "resourceNames": ["mine"]}
    rbac = _world(role("e", rule), binding("e", "e", ("User", "jane"), namespace="x"))
    escalation_check(rbac, JANE, role("mine", pods("*"), namespace="x"))
    assert "not currently held" in _refused(rbac, role("other", pods("*"), namespace="x"))


def test_a_binding_needs_the_roles_permissions_or_bind() -> None:
    rbac = _world(role("reader", pods("get")), role("writer", pods("delete")))
    escalation_check(rbac, JANE, binding("b2", "reader", ("User", "joe"), namespace="x"))
    assert 'Verbs:["delete"]' in _refused(rbac, binding("b2", "writer", ("User", "joe"), namespace="x"))
    assert "not currently held" in _refused(rbac, binding("b2", "reader", ("User", "joe")))
    missing = binding("b2", "ghost", ("User", "joe"), namespace="x", cluster=False)
    assert _refused(rbac, missing) == f'roles.{GROUP} "ghost" not found'
    rule = {"verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["writer"]}
    rbac.put(role("binder", rule))
    rbac.put(binding("b3", "binder", ("User", "jane"), namespace="x"))
    escalation_check(rbac, JANE, binding("b2", "writer", ("User", "joe"), namespace="x"))
    assert "not currently held" in _refused(rbac, binding("b2", "writer", ("User", "joe"), namespace="y"))


def test_what_only_the_garbage_collector_changes_passes() -> None:
    old = role("mine", pods("*"), namespace="x")
    new = deepcopy(old)
    new["metadata"] |= {"finalizers": ["x"], "ownerReferences": [], "resourceVersion": "7"}
    escalation_check(Rbac(), JANE, new, old)
    new["metadata"]["labels"] = {"a": "b"}
    assert "not currently held" in _refused(Rbac(), new, old)


def test_an_aggregation_rule_is_an_administrators() -> None:
    wide = role("wide", {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})
    item = role("mine") | {"aggregationRule": {"clusterRoleSelectors": [{}]}}
    rbac = Rbac([wide, binding("b", "wide", ("User", "jane"))])
    assert "must have cluster-admin privileges to use the aggregationRule" in _refused(_world(), item)
    escalate = {"verbs": ["*"], "nonResourceURLs": ["*"]}
    rbac.put(role("paths", escalate))
    rbac.put(binding("b2", "paths", ("User", "jane")))
    escalation_check(rbac, JANE, item)
    escalation_check(Rbac(), User("x", ("system:masters",)), item)


# The default roles.


@pytest.fixture(scope="module")
def defaults() -> Authorizer:
    authorizer = Authorizer()
    for item in default_roles():
        authorizer.put(item)
    for name in ("admin", "edit", "view"):
        authorizer.put(binding(name, name, ("User", name), namespace="shop"))
    return authorizer


def _may(authorizer: Authorizer, who: str, verb: str, group: str, resource: str, namespace: str = "shop") -> bool:
    resource, _, subresource = resource.partition("/")
    user = User(who, ("system:authenticated",))
    return authorizer.decide(Attributes(user, verb, group, "v1", resource, subresource, namespace, "")) is None


READ, WRITE = ("get", "list", "watch"), ("create", "update", "patch", "delete", "deletecollection")
ROWS = [  # resource, who reads, who writes
    ("", "pods", "view edit admin", "edit admin"),
    ("", "pods/log", "view edit admin", ""),
    ("", "pods/status", "view edit admin", ""),
    ("", "configmaps", "view edit admin", "edit admin"),
    ("", "secrets", "edit admin", "edit admin"),
    ("", "serviceaccounts", "view edit admin", "edit admin"),
    ("", "events", "view edit admin", "edit admin"),
    ("", "namespaces", "view edit admin", ""),
    ("networking.k8s.io", "networkpolicies", "view edit admin", "edit admin"),
    ("crd.nsx.vmware.com", "securitypolicies", "view edit admin", "edit admin"),
    (GROUP, "roles", "admin", "admin"),
    (GROUP, "rolebindings", "admin", "admin"),
    ("", "nodes", "", ""),
    ("palisade.internal", "hosts", "", ""),
    ("policy.networking.k8s.io", "clusternetworkpolicies", "", ""),
    ("certificates.k8s.io", "certificatesigningrequests", "", ""),
    ("span.palisade.internal", "ports", "", ""),
]


@pytest.mark.parametrize(("group", "resource", "readers", "writers"), ROWS)
def test_what_a_namespaces_users_may(
    defaults: Authorizer, group: str, resource: str, readers: str, writers: str
) -> None:
    for who in ("view", "edit", "admin"):
        assert all(_may(defaults, who, verb, group, resource) == (who in readers.split()) for verb in READ), who
        assert all(_may(defaults, who, verb, group, resource) == (who in writers.split()) for verb in WRITE), who
        for verb in (*READ, *WRITE):
            assert not _may(defaults, who, verb, group, resource, "other")


def test_exec_and_tokens_are_an_editors(defaults: Authorizer) -> None:
    for resource in ("pods/exec", "pods/attach", "serviceaccounts/token"):
        assert not _may(defaults, "view", "create", "", resource)
        assert _may(defaults, "edit", "create", "", resource)
    assert not _may(defaults, "view", "get", "", "pods/exec") and _may(defaults, "edit", "get", "", "pods/exec")


def test_everybody_known_finds_his_way(defaults: Authorizer) -> None:
    user = User("anybody", ("system:authenticated",))
    for path in ("/api", "/apis", "/apis/apps/v1", "/openapi/v2", "/openapi/v3/api/v1", "/version", "/readyz"):
        assert defaults.decide(Attributes(user, "get", path=path)) is None
    assert defaults.decide(Attributes(user, "get", path="/metrics")) == ""
    for resource in ("selfsubjectaccessreviews", "selfsubjectrulesreviews"):
        assert _may(defaults, "anybody", "create", "authorization.k8s.io", resource, "")
    assert not _may(defaults, "anybody", "create", "authorization.k8s.io", "subjectaccessreviews", "")


def test_administrators_may_everything_by_a_binding(defaults: Authorizer) -> None:
    user = User("kubernetes-admin", ("palisade:administrators", "system:authenticated"))
    for kind in KINDS:
        for verb in kind.verbs:
            assert defaults.decide(Attributes(user, verb, kind.group, kind.version, kind.plural)) is None
    assert defaults.decide(Attributes(user, "get", path="/metrics")) is None


def test_an_editor_cannot_make_himself_an_admin(defaults: Authorizer) -> None:
    for of in ("admin", "cluster-admin", "edit"):
        item = binding("mine", of, ("User", "edit"), namespace="shop")
        refusal(defaults, Attributes(User("edit"), "create", GROUP, "v1", "rolebindings", namespace="shop"))
        if of == "cluster-admin":
            assert "not currently held" in _refused(defaults.rbac, item, user=User("admin"))
        else:
            escalation_check(defaults.rbac, User("admin"), item)


def test_a_labelled_role_is_everybodys_who_views(defaults: Authorizer) -> None:
    rule = {"verbs": ["get"], "apiGroups": ["x.io"], "resources": ["things"]}
    label = {"rbac.authorization.k8s.io/aggregate-to-view": "true"}
    authorizer = Authorizer()
    for item in default_roles():
        authorizer.put(item)
    authorizer.put(binding("admin", "admin", ("User", "admin"), namespace="shop"))
    authorizer.put(role("things", rule, labels=label))
    assert _may(authorizer, "admin", "get", "x.io", "things")
    shown = plan_aggregated(authorizer.rbac, default_roles())
    assert {item["metadata"]["name"] for item in shown} == {"admin", "edit", "view"}
    assert all(
        rule in [{key: one[key] for key in rule} for one in item["rules"] if "resources" in one] for item in shown
    )
    authorizer.forget("ClusterRole", "", "things")
    assert not _may(authorizer, "admin", "get", "x.io", "things")
    assert plan_aggregated(authorizer.rbac, default_roles()) == ()


def test_the_defaults_are_brought_up_to_date_and_no_further() -> None:
    everything = plan_defaults({})
    assert everything.update == () and everything.create == default_roles()
    held = {(item["kind"], item["metadata"]["name"]): item for item in default_roles()}
    assert plan_defaults(held) == ((), ())
    changed = held["ClusterRole", "system:discovery"]
    changed["rules"] = [pods("get")]
    held["ClusterRoleBinding", "system:discovery"]["subjects"].append({"kind": "User", "name": "joe"})
    off = held["ClusterRole", "system:basic-user"]
    off["rules"], off["metadata"]["annotations"] = [], {"rbac.authorization.kubernetes.io/autoupdate": "false"}
    create, update = plan_defaults(held)
    assert create == () and [item["metadata"]["name"] for item in update] == ["system:discovery"]
    assert rules_cover(rules_read(update[0]["rules"]), rules_read([pods("get")])) == ()
    assert plan_defaults(held | {("ClusterRole", "system:discovery"): update[0]}) == ((), ())


# Reviews.


def test_reviews_answer_as_the_requests_would_be(defaults: Authorizer) -> None:
    def ask(verb: str, user: User, **attributes: str) -> Any:
        item = {"kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {"verb": verb, **attributes}}}
        return reviews.self_access_review(item, user, defaults.decide)["status"]

    viewer = User("view", ("system:authenticated",))
    assert ask("list", viewer, resource="pods", namespace="shop") == {"allowed": True}
    assert ask("list", viewer, resource="secrets", namespace="shop") == {"allowed": False}
    assert ask("get", viewer, resource="pods", subresource="log", namespace="shop") == {"allowed": True}
    assert ask("*", User("x", ("palisade:administrators",)), resource="*", group="*") == {"allowed": True}
    item = {"kind": "SelfSubjectAccessReview", "spec": {"nonResourceAttributes": {"path": "/api", "verb": "GET"}}}
    assert reviews.self_access_review(item, viewer, defaults.decide)["status"] == {"allowed": True}
    for spec in ({}, {"resourceAttributes": {}, "nonResourceAttributes": {}}):
        with pytest.raises(ApiError) as caught:
            reviews.self_access_review({"kind": "SelfSubjectAccessReview", "spec": spec}, viewer, defaults.decide)
        assert caught.value.code == 422


def test_a_review_about_another(defaults: Authorizer) -> None:
    spec = {"user": "view", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "shop"}}
    item = {"kind": "SubjectAccessReview", "spec": spec}
    assert reviews.access_review(item, defaults.decide)["status"] == {"allowed": True}
    assert reviews.local_access_review(item, "shop", defaults.decide)["status"] == {"allowed": True}
    with pytest.raises(ApiError):
        reviews.local_access_review(item, "other", defaults.decide)
    with pytest.raises(ApiError):
        reviews.access_review({"kind": "SubjectAccessReview", "spec": {}}, defaults.decide)


def test_the_rules_of_oneself(defaults: Authorizer) -> None:
    item = {"kind": "SelfSubjectRulesReview", "spec": {"namespace": "shop"}}
    status = reviews.self_rules_review(item, User("view", ("system:authenticated",)), defaults.rbac)["status"]
    readable = {
        (group, resource)
        for rule in status["resourceRules"]
        if "get" in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert ("", "pods") in readable and ("", "secrets") not in readable and status["incomplete"] is False
    assert any("/api" in rule["nonResourceURLs"] for rule in status["nonResourceRules"])
    with pytest.raises(ApiError):
        reviews.self_rules_review({"spec": {}}, JANE, defaults.rbac)
