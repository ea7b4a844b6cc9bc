# SPDX-License-Identifier: Apache-2.0
"""What the shop's policy promises. Run with: palisade test (or plain pytest; the plugin comes with the package)."""


def test_customers_reach_the_web_servers_and_nothing_else(palisade_policy):
    palisade_policy.assert_allowed("any", "group:web", "tcp/80,tcp/443", except_from="web-3", except_to="web-3")
    palisade_policy.assert_denied("outside:198.51.100.0/24", "group:app", "tcp/8080", by="shop/rules/rest")
    palisade_policy.assert_denied("outside:198.51.100.0/24", "group:shop", "tcp/22,tcp/3389,udp/161", except_to="web-3")


def test_db_is_reached_only_from_app(palisade_policy):
    palisade_policy.assert_allowed("group:app", "db-1", "tcp/3306", by="shop/rules/app-to-db")
    palisade_policy.assert_denied("any", "db-1", "tcp/3306", except_from=["group:app"])
    palisade_policy.assert_denied("web-1", "db-1", "tcp/3306", by="shop/rules/shop-to-db")
    palisade_policy.assert_denied("group:app", "db-1", "tcp/5432", by="shop/rules/shop-to-db")
    palisade_policy.assert_denied("ops-1", "db-1", "tcp/3306", by="shop/rules/rest")


def test_web_reaches_app_on_its_own_ports_only(palisade_policy):
    palisade_policy.assert_allowed(["web-1", "web-2"], "group:app", "tcp/8080,tcp/8443", by="shop/rules/web-to-app")
    palisade_policy.assert_denied(["web-1", "web-2"], "group:app", "tcp/22,tcp/80,udp/8080", by="shop/rules/rest")
    palisade_policy.assert_denied("ops-1", "group:app", "tcp/8080", by="shop/rules/rest")


def test_quarantine_lets_nothing_in_or_out_but_its_inspection(palisade_policy):
    palisade_policy.assert_allowed("ops-1", "web-3", "tcp/22", by="quarantine/rules/inspect")
    palisade_policy.assert_denied("any", "web-3", "tcp/80,icmp", by="quarantine/rules/isolate")
    palisade_policy.assert_denied("web-3", "any", "tcp/443,udp/53", by="quarantine/rules/isolate")


def test_operations(palisade_policy):
    palisade_policy.assert_allowed("ops-1", "group:shop", "tcp/22", except_to="web-3", by="ssh-from-jump-hosts")
    palisade_policy.assert_denied("backup-1", "group:shop", "tcp/22", except_to="web-3")
    palisade_policy.assert_allowed("ops-1", ["web-1", "app-1", "db-1"], "icmp,icmpv6", by="operations/rules/ping")
    palisade_policy.assert_allowed("db-1", "backup-1", "tcp/21", by="backup-by-ftp")
    palisade_policy.assert_denied("db-1", "group:app", "tcp/21")
    palisade_policy.assert_allowed("group:app", "backup-1", "udp/69", by="config-by-tftp")
    palisade_policy.assert_denied("group:app", "db-1", "udp/69")


def test_names_are_asked_of_the_resolver_alone(palisade_policy):
    palisade_policy.assert_allowed("any", "dns-1", "udp/53", except_from="web-3", by="name-service/rules/questions")
    palisade_policy.assert_allowed("dns-1", "group:shop", "udp/40000", except_to="web-3", sport=53, by="answers")
    palisade_policy.assert_denied("any", "group:app", "udp/53", except_from="web-3")
    palisade_policy.assert_denied("any", "group:app", "udp/40000", except_from=["dns-1", "web-3"], sport=53)


def test_updates_are_fetched_from_the_internet(palisade_policy):
    palisade_policy.assert_allowed("group:shop", "outside:192.0.2.0/24", "tcp/443", except_from="web-3", family=4)


def test_who_reaches_whom(palisade_policy):
    palisade_policy.assert_matrix("matrix.csv")
