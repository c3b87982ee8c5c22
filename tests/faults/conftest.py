"""The rows of the fault table as they went, printed at the end."""

from __future__ import annotations

from typing import Any

from tests.doubles.tables import markdown

COLUMNS = ("fault", "seen after", "retried", "exit", "took", "what follows")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [one for kind in ("passed", "failed") for one in terminalreporter.stats.get(kind, ())]
    if rows := [value for one in reports for name, value in one.user_properties if name == "row"]:
        terminalreporter.write_line("\n" + "\n".join(markdown(COLUMNS, rows)))
