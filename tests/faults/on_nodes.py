"""Faults of nodes: they come late, join, are preempted, die. Actors ask for a GPU that only these nodes have."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import replace

from tests.faults.bed import LIMITS, QUICK, Bed, Seen, Watched
from tests.faults.table import fault
from xreal_synth.dataset.verify import verify
from xreal_synth.engine.progress import ActorUp, Event, MicroBatchFound, Warned
from xreal_synth.run.setup import Run
from xreal_synth.storage import LocalStore

GROUP = 5


def _on_gpus(bed: Bed) -> Run:
    return bed.run(compute__gpus_per_actor=1.0, compute__actors={"min": 1, "max": 2})


@fault("node-joins", "no node has a GPU; one comes, then another", "a warning; actors come up as nodes do")
def node_joins(bed: Bed) -> Seen:
    bed.cluster.remove_nodes()
    out, marks = bed.output(), bed.marks()
    adding = threading.Thread(target=bed.gpu_nodes, args=(1,), daemon=True)
    second = threading.Thread(target=bed.gpu_nodes, args=(2,), daemon=True)
    up: list[ActorUp] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Warned) and not adding.ident:
            bed.strike(adding.start)
        if isinstance(event, ActorUp):
            up.append(event)
            if len(up) == 1:
                second.start()
            else:
                (bed.folder / marks / "go").touch()

    backend = replace(QUICK, held=frozenset({GROUP}), hold=marks)
    limits = replace(LIMITS, pending_warning_s=1.0)
    watched = bed.drive(out, backend, run=_on_gpus(bed), limits=limits, on_event=on_event)
    seen = bed.seen(watched, out)
    seen.must(len(up) == 2, f"{len(up)} actors came up, wanted 2")
    warned = [event.message for event in watched.of(Warned) if isinstance(event, Warned)]
    seen.said = next((message for message in warned if "have waited" in message), "")
    seen.must(bool(seen.said), f"no warning of actors that wait: {warned}")
    return seen


@fault("node-killed", "SIGKILL of a node's raylet, its actor in the midst of a shard", "the shard redone elsewhere")
def node_killed(bed: Bed) -> Seen:
    return _node_lost(bed, lambda index: bed.cluster.kill_node(bed.cluster.nodes[index]))


@fault("node-preempted", "a node drained, then ended in the midst of a shard", "the shard redone elsewhere")
def node_preempted(bed: Bed) -> Seen:
    def preempt(index: int) -> None:
        node = bed.cluster.nodes[index]
        bed.cluster.drain(node, deadline_s=5)
        bed.cluster.kill_node(node, signal.SIGTERM)

    return _node_lost(bed, preempt)


def _node_lost(bed: Bed, lose: Callable[[int], None]) -> Seen:
    out = bed.output()
    raylets = [node.raylet for node in bed.gpu_nodes(2)]

    def blow(pid: int) -> None:
        from tests.doubles.processes import ancestors

        lose(next(index for index, raylet in enumerate(raylets) if raylet in ancestors(pid)))

    watched: Watched = bed.drive(out, replace(QUICK, **bed.trap(GROUP, blow)), run=_on_gpus(bed))
    seen = bed.seen(watched, out)
    seen.must(seen.retried >= 1, "no shard was retried")
    return seen


@fault("micro-batch-found", "two GPUs, and no micro-batch yet", "both load at once; one finds it, the other is told")
def micro_batch_found(bed: Bed) -> Seen:
    bed.gpu_nodes(2)
    out, two = bed.output(), {"min": 2, "max": 2}
    run = bed.run(compute__gpus_per_actor=1.0, compute__actors=two, compute__micro_batch="auto")
    watched = bed.drive(out, run=run)
    seen = Seen(watched.exit_code)
    found = [event.micro_batch for event in watched.of(MicroBatchFound) if isinstance(event, MicroBatchFound)]
    seen.must(found == [2], f"found {found}, wanted one micro-batch, of 2")
    seen.must(len(watched.of(ActorUp)) == 2, "not both actors came up")
    seen.must(not verify(LocalStore(out)).problems, "the dataset is not sound")
    return seen
