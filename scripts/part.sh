#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Run one part of a target and print how long it took.
# usage: scripts/part.sh NAME COMMAND [ARGUMENT]...     exit status: the command's
name=$1
shift
start=$(date +%s)
status=0
"$@" || status=$?
echo "== $name: $(($(date +%s) - start)) s$([ $status = 0 ] || echo ", FAILED ($status)")"
exit $status
