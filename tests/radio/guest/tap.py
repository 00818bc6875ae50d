"""Reports a pytest run as TAP, line by line, on the file descriptor TINYSPLIT_REPORT.

A test is one line, whatever its phases; a skipped one is not ok, because everything that a
guest test needs is the lane's to bring.
"""

from __future__ import annotations

import os
from pathlib import PurePath

import pytest

_PORT = int(os.environ["TINYSPLIT_REPORT"])


class Report:
    def __init__(self) -> None:
        self._number = 0
        self._took_s = 0.0
        self._trouble: list[str] = []

    @staticmethod
    def _print(line: str) -> None:
        data = (line + "\n").encode()
        while data:
            data = data[os.write(_PORT, data) :]

    def _trouble_is(self, text: str) -> None:
        self._trouble += [f"# {line}".rstrip() for line in text.splitlines()]

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self._print(f"1..{len(items)}")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            last = report.longreprtext.strip().splitlines()[-1:]
            self._print(f"Bail out! {report.nodeid} cannot be collected: {' '.join(last)}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._took_s += report.duration
        if not report.passed:
            self._trouble_is(f"{report.when}: {report.outcome}")
            self._trouble_is(report.longreprtext)
        if report.when != "teardown":
            return
        self._number += 1
        file, _, name = report.nodeid.partition("::")
        lane = PurePath(file).stem.removeprefix("test_")
        words = name.removeprefix("test_").replace("_", " ")
        verdict = "not ok" if self._trouble else "ok"
        self._print(f"{verdict} {self._number} - {lane}: {words} # {self._took_s:.1f} s")
        for line in self._trouble:
            self._print(line)
        self._took_s, self._trouble = 0.0, []
