# SPDX-License-Identifier: Apache-2.0
"""The Supervisor's controllers: from what users ask for to networks, places, rules for each host, and back what is so.

Each looks at the state of the API's objects as it is, never at what happened (level-triggered), and can do its work
twice. They are clients of the API (`supervisor_glue/api/client.py`) and of nothing else. A change's path: `informer` (a
view of a kind) → `queue` (names of what has to be looked at) → a controller's `reconcile` → the client.
"""
