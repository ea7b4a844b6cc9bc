# SPDX-License-Identifier: Apache-2.0
"""The Supervisor's API: Kubernetes' REST over the store.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/. A request's path: `server` (TLS, who asks) →
`route` (which kind, which verb) → `authorize` → `objects` (the verb itself:
decode, patch, validate, commit to the store) → an object, a list, a table or a watch. Every refusal is a `Status`.
"""
