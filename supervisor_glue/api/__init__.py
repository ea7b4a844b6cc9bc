# SPDX-License-Identifier: Apache-2.0
"""The Supervisor's API: Kubernetes' REST over the store (https://kubernetes.io/docs/reference/using-api/api-concepts/).

A request's path: `server` (TLS, who asks) → `route` (which kind, which verb) → `authorize` → `resource` (the verb itself:
decode, patch, validate, commit to the store) → an object, a list, a table or a watch. Every refusal is a `Status`.
"""
