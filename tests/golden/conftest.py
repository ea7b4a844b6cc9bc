# SPDX-License-Identifier: Apache-2.0
"""`pytest tests/golden --update-golden` writes the expected files anew; then read the diff."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the expected files of tests/golden anew")
