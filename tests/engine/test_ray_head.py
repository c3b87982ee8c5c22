"""What a driver does as its cluster's head falls silent; the whole of it is the fault table's `head-killed`."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from xreal_synth.engine.progress import Event, Warned
from xreal_synth.engine.ray_driver import Head, HeadWatch
from xreal_synth.run.resources import Resources


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def address(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_head_that_stays_away_is_reported_of_and_stops_the_run(listening: socket.socket) -> None:
    clock, stop = Clock(), threading.Event()
    reported: list[Event] = []
    asked: list[Resources] = []

    def ask() -> Resources:
        assert not asked, "a head that is silent is not asked"
        asked.append(Resources(4, 0))
        return asked[0]

    watched = HeadWatch(Head(address(listening), 60, clock), ask, stop, reported.append)
    assert watched.resources() == Resources(4, 0)
    listening.close()
    for seconds, warnings, stopped in ((2, 0, False), (9, 0, False), (11, 1, False), (29, 1, False), (31, 2, True)):
        clock.now = 100.0 + seconds
        assert watched.resources() == Resources(4, 0)
        assert not watched.there()
        assert len(reported) == warnings
        assert stop.is_set() == stopped
    messages = [event.message for event in reported if isinstance(event, Warned)]
    assert "has not answered for 11 s" in messages[0]
    assert "this run ends" in messages[1]


def test_a_head_that_comes_back_is_asked_again(listening: socket.socket) -> None:
    clock, stop = Clock(), threading.Event()
    reported: list[Event] = []
    counts = iter(range(1, 9))
    port = listening.getsockname()[1]
    head = Head(address(listening), 60, clock)
    watched = HeadWatch(head, lambda: Resources(next(counts), 0), stop, reported.append)
    assert watched.resources().cpus == 1
    listening.close()
    clock.now += 20
    assert watched.resources().cpus == 1
    assert head.silent_s == 20
    with socket.create_server(("127.0.0.1", port)):
        clock.now += 20
        assert watched.resources().cpus == 2
        assert head.silent_s == 0
    clock.now += 20
    assert watched.resources().cpus == 2
    assert [type(event) for event in reported] == [Warned, Warned]
    assert not stop.is_set(), "each silence is counted from its own beginning"


def test_asked_once_a_second(listening: socket.socket) -> None:
    clock = Clock()
    head = Head(address(listening), 60, clock)
    listening.close()
    assert head.there, "nothing is known against it"
    clock.now += 2
    assert not head.there
    assert Head("", 60, clock).there
