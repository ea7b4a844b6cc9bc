# SPDX-License-Identifier: Apache-2.0
"""What every test shares: what a machine may lack, the data beside the checkout, and no green by skipping.

A test says what it needs with a marker (`needs_root`, `needs_netns`, `needs_tun`, `needs_ipv6`, `needs_shared_data`,
`needs_tool("clang")`) or by `pytest.skip("needs NAME: why")`. Where the machine lacks it, the test is skipped with
that reason, unless NAME is listed in PALISADE_REQUIRE: then it fails.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"
COUNTS = ROOT / "tests" / "expected-counts.txt"
REQUIRED = frozenset(filter(None, os.environ.get("PALISADE_REQUIRE", "").replace(" ", "").split(",")))
LONG = bool(os.environ.get("PALISADE_LONG"))
WHOLE_SUITE = bool(os.environ.get("PALISADE_FLOOR"))  # set by scripts/test.sh

MARKERS = {
    "needs_root": "the test needs user id 0",
    "needs_netns": "the test makes network namespaces (needs root and CAP_SYS_ADMIN)",
    "needs_mount": "the test mounts, in a mount namespace of its own (needs root and CAP_SYS_ADMIN)",
    "needs_tun": "the test opens /dev/net/tun",
    "needs_kernel_judge": "the test lets this kernel judge packets (nftables, conntrack, NFLOG, a TUN device, bridges)",
    "needs_vxlan": "the test lets this kernel forward (VXLAN, bridges, br_netfilter)",
    "needs_ipv6": "the test needs IPv6 in the kernel",
    "needs_shared_data(*names)": "the test reads ../shared/data, and in it these files or directories",
    "needs_tool(*names)": "the test runs these commands",
    "every_version": "a client's test that each of its versions runs, however short the run",
    "long": "runs under `make test-long` only",
}

settings.register_profile(
    "bounded", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "long", max_examples=2000, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("long" if LONG else "bounded")


def find_lack(name: str, arguments: tuple[str, ...] = ()) -> tuple[str, str] | None:
    """What this machine lacks of a need: (name in PALISADE_REQUIRE, why), or None."""
    if name == "needs_root":
        return None if os.geteuid() == 0 else ("root", "not running as root")
    if name == "needs_netns":
        return find_lack_namespace("netns", "--net")
    if name == "needs_mount":
        return find_lack_namespace("mount", "--mount")
    if name == "needs_tun":
        return None if os.access("/dev/net/tun", os.R_OK | os.W_OK) else ("tun", "no /dev/net/tun")
    if name == "needs_kernel_judge":
        return find_lack_judge()
    if name == "needs_vxlan":
        return find_lack_vxlan()
    if name == "needs_ipv6":
        switch = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
        on = switch.exists() and switch.read_text().strip() == "0"
        return None if on else ("ipv6", "IPv6 is off in this kernel")
    if name == "needs_shared_data":
        for path in [SHARED_DATA, *(SHARED_DATA / argument for argument in arguments)]:
            if not path.exists():
                return "shared-data", f"no ../shared/data{str(path).removeprefix(str(SHARED_DATA))}"
        return None
    if name == "needs_tool":
        for argument in arguments:
            if shutil.which(argument) is None:
                return argument, f"no command {argument}"
        return None
    raise AssertionError(name)


@cache
def find_lack_namespace(name: str, option: str) -> tuple[str, str] | None:
    """Whether a namespace can be made; tried once, in a process of its own."""
    tried = subprocess.run(["unshare", option, "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else (name, tried.stderr.strip() or f"unshare {option} fails")


@cache
def find_lack_judge() -> tuple[str, str] | None:
    """Whether the kernel can be asked; tried once, with nothing in force."""
    from dfw.errors import EnvironmentLacksError
    from dfw.nftables import Ruleset
    from dfw.nftables.frame_judge import FrameJudge
    from dfw.nftables.frames import FrameRules
    from dfw.nftables.judge import KernelJudge

    try:
        KernelJudge(Ruleset("palisade")).close()
        FrameJudge(FrameRules(), "palisade").close()
    except EnvironmentLacksError as error:
        return "nflog", str(error)
    return None


@cache
def find_lack_vxlan() -> tuple[str, str] | None:
    """Whether the kernel has what an overlay of its own needs; tried once, in a namespace."""
    tries = "ip link add v0 type vxlan id 1 local 127.0.0.1 dstport 4789 && ip link add b0 type bridge"
    tries += " && test -e /proc/sys/net/bridge/bridge-nf-call-iptables"
    tried = subprocess.run(["unshare", "--net", "sh", "-c", tries], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else ("vxlan", tried.stderr.strip() or "no br_netfilter")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    for name, text in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {text}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Live tests first: they wait, so one worker begins with them while the others compute, then share its queue."""
    items.sort(key=lambda item: not {"netns", "clients"} & set(item.path.parts))


def bounding_set() -> str:
    """The capabilities that this process and its children may ever have (proc(5), CapBnd)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next((line for line in status.splitlines() if line.startswith("CapBnd")), "")


BOUNDING_SET = bounding_set()


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """A test that gives up capabilities takes them from all that come after it in this process."""
    if bounding_set() != BOUNDING_SET:
        pytest.exit(f"{item.nodeid} has given up capabilities of the test process", returncode=1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose needs are not met."""
    for marker in item.iter_markers():
        if marker.name.startswith("needs_"):
            lack = find_lack(marker.name, marker.args)
            if lack is not None:
                pytest.skip(f"needs {lack[0]}: {lack[1]}")
        elif marker.name == "long" and not LONG:
            pytest.skip("long: runs under `make test-long`")


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The reason that a skipped report gives."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip for a lack of something required into a failure."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    match = re.match(r"needs ([A-Za-z0-9_.-]+)", skip_reason(report))
    if match and match.group(1) in REQUIRED:
        report.outcome = "failed"
        report.longrepr = f"PALISADE_REQUIRE has {match.group(1)}, but: {skip_reason(report)}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """No green by skipping, for tests."""
    outcome = yield
    refuse_skip(outcome.get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, None]:
    """No green by skipping, for whole modules."""
    outcome = yield
    refuse_skip(outcome.get_result())


def read_floor(name: str) -> int:
    """The number of tests of a kind that the tree promises."""
    for line in COUNTS.read_text(encoding="utf-8").splitlines():
        words = line.split("#")[0].split()
        if words and words[0] == name:
            return int(words[1])
    raise LookupError(f"{COUNTS}: no count for {name}")


def count_tests(reporter: Any) -> int:
    """Tests that ran or were skipped, whole modules skipped included once."""
    kinds = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
    reports = [report for kind in kinds for report in reporter.stats.get(kind, [])]
    return len({report.nodeid for report in reports if getattr(report, "when", "collect") != "teardown"})


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run of the whole suite that lost tests."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not WHOLE_SUITE or reporter is None or hasattr(session.config, "workerinput"):
        return
    if count_tests(reporter) < read_floor("pytest") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Seconds by directory, skips by reason, and the floor."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds["/".join(report.nodeid.split("::")[0].split("/")[:2])] += report.duration
    if seconds:
        parts = ", ".join(f"{name} {spent:.1f} s" for name, spent in sorted(seconds.items()))
        terminalreporter.write_line(f"== time by part (sum over workers): {parts}")
    reasons = Counter(skip_reason(report) for report in terminalreporter.stats.get("skipped", []))
    for reason, number in sorted(reasons.items()):
        terminalreporter.write_line(f"== skipped {number}: {reason}")
    if WHOLE_SUITE:
        ran, floor = count_tests(terminalreporter), read_floor("pytest")
        word = "FEWER than" if ran < floor else "at least"
        terminalreporter.write_line(f"== ran + skipped {ran}: {word} the {floor} of tests/expected-counts.txt")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The data beside the checkout; skips where it is absent. Nothing of it is ever committed."""
    lack = find_lack("needs_shared_data")
    if lack is not None:
        pytest.skip(f"needs {lack[0]}: {lack[1]}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def long_run() -> bool:
    """Whether this is `make test-long`: full counts instead of bounded ones."""
    return LONG


@pytest.fixture(scope="session")
def root_folder() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def palisade() -> Any:
    """Run the command line as a user does: `palisade("check", "x.yaml")` gives a CompletedProcess with text."""

    def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dfw", *map(str, arguments)]
        options = {"capture_output": True, "text": True, "check": False, "timeout": 300, **options}
        return subprocess.run(command, **options)

    return run
