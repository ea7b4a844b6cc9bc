# SPDX-License-Identifier: Apache-2.0
"""What the policy does with more than first packets: answers, data connections, timeouts, a rule that goes."""

import pytest


@pytest.mark.parametrize("family", [4, 6])
def test_app_talks_with_db(palisade_traffic, family):
    query = palisade_traffic.open("app-1", "db-1", "tcp/3306", by="shop/rules/app-to-db", family=family)
    query.send(b"select 1").assert_allowed(reason="state")
    query.error("too-big").assert_allowed(reason="related")  # of what is acknowledged no error is believed
    query.answer(b"1").assert_allowed(reason="state")
    query.close()


def test_a_query_ends_with_its_rule(palisade_traffic):
    query = palisade_traffic.open("app-1", "db-1", "tcp/3306", by="shop/rules/app-to-db")
    palisade_traffic.remove("shop/rules/app-to-db")
    query.send(b"select 1").assert_denied(reason="policy-change", by="shop/rules/shop-to-db")


def test_backup_by_active_ftp_opens_what_it_announces(palisade_traffic):
    control = palisade_traffic.open("db-1", "backup-1", "tcp/21", by="operations/rules/backup-by-ftp")
    palisade_traffic.assert_denied("backup-1", "db-1", "tcp/50000", sport=20, by="shop/rules/rest")
    control.send(b"PORT 10,1,3,11,195,80\r\n").assert_allowed()
    data = palisade_traffic.open("backup-1", "db-1", "tcp/50000", sport=20, by="operations/rules/backup-by-ftp")
    data.send(b"a file").assert_allowed(reason="state")
    palisade_traffic.assert_denied("backup-1", "db-1", "tcp/50001", sport=20, by="shop/rules/rest")


def test_config_by_tftp_comes_in_time_or_not_at_all(palisade_traffic):
    asked = palisade_traffic.open("app-1", "backup-1", "udp/69", by="operations/rules/config-by-tftp")
    palisade_traffic.wait(10)
    asked.answer(b"error").assert_allowed(reason="state")
    palisade_traffic.wait(24 * 3600)
    asked.answer(b"error").assert_denied(by="shop/rules/rest")


def test_names_in_fragments(palisade_traffic):
    asked = palisade_traffic.open("app-1", "dns-1", "udp/53", by="name-service/rules/questions", mtu=576)
    asked.answer(bytes(1400)).assert_allowed(by="name-service/rules/answers")
