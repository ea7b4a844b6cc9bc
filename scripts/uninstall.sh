#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Undo scripts/setup.sh: .venv, build/, and those Debian packages that it brought and nothing else now needs.
set -eu
cd "$(dirname "$0")/.."
# shellcheck disable=SC2086 # one word a package
if [ -s .setup/apt-packages ]; then
  ours=$(sort -u .setup/apt-packages | tr '\n' ' ')
  # Something installed since may need one of them: a removal that reaches further than our list is refused.
  sort -u .setup/apt-packages >.setup/apt-packages.sorted
  others=$(apt-get -s remove $ours 2>/dev/null | sed -n 's/^Remv \([^ :]*\).*/\1/p' | sort -u | comm -23 - .setup/apt-packages.sorted)
  if [ -n "$others" ]; then
    echo "uninstall: these need packages that the set-up brought, so the packages stay:" $others >&2
  elif [ "$(id -u)" != 0 ]; then
    echo "uninstall: not root, so the packages stay; to remove them:" >&2
    echo "  apt-get purge -y $ours" >&2
  else
    echo "uninstall: apt-get purge -y $ours" >&2
    DEBIAN_FRONTEND=noninteractive apt-get purge -q -y $ours >/dev/null </dev/null
  fi
fi
rm -rf .venv build .setup palisade_dfw.egg-info _palisade_core*.so
echo "uninstall: removed .venv, build and .setup" >&2
