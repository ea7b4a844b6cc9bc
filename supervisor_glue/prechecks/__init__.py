# SPDX-License-Identifier: Apache-2.0
"""Can a Supervisor be enabled here? What it asks of hosts, Edges, networks and addresses, all checked at once.

`spec` reads what is asked for, `facts` what there is, `compatibility` compares them (pure), `placement` says where the
control plane's nodes go. The answers have the shape of vCenter's compatibility checks
(namespace-management/cluster-compatibility: id, default_message, args); the wording is ours.
"""
