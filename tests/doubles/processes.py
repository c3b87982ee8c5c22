"""Processes by a mark in their command line: those of a Ray started here carry its temporary folder's name."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path


def marked(mark: str) -> list[int]:
    """Ids of the processes whose command line holds `mark`, but for this one."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in command.read_bytes() and int(command.parent.name) != os.getpid():
                found.append(int(command.parent.name))
        except OSError:
            continue
    return sorted(found)


def ancestors(pid: int) -> list[int]:
    """Ids of the process's parents, nearest first."""
    found = []
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
        found.append(pid)
    return found


def strike(pid: int, number: signal.Signals = signal.SIGKILL) -> bool:
    """Sends the signal; False if the process is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def end_marked(mark: str) -> None:
    """Ends every process that carries `mark`, a name that only those started here have. Some of Ray's do not end
    when asked."""
    for number, patience in ((signal.SIGTERM, 1), (signal.SIGKILL, 5)):
        for pid in marked(mark):
            strike(pid, number)
        deadline = time.monotonic() + patience
        while marked(mark) and time.monotonic() < deadline:
            time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for_port(port: int, seconds: float) -> bool:
    """Whether something listens on the loopback port within that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.2)
    return False
