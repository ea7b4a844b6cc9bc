# SPDX-License-Identifier: Apache-2.0
"""Who asks, and may they: certificates, tokens, RBAC, a host's own part, and what one user may use up.

Sources: https://kubernetes.io/docs/reference/access-authn-authz/ (authentication, RBAC, Node authorization,
certificate signing requests). Nobody is anonymous here but a probe of /healthz, /livez and /readyz.
"""
