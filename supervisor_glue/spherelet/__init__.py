# SPDX-License-Identifier: Apache-2.0
"""The Spherelet: runs a host's pods, shows the host as a Node, and tells its packet agent what the Supervisor wants.

It is a client of the API and nothing else, opens no port, and may be killed at any moment: pods go on, and the next one
finds them again by its records.
"""
