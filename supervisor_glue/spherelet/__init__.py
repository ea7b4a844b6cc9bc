# SPDX-License-Identifier: Apache-2.0
"""The Spherelet: runs a host's pods and tells its packet agent what the Supervisor wants."""
