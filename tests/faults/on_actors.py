"""Faults of actors and of the shards they make."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from tests.doubles.fake_backend import FakeImages
from tests.doubles.processes import strike
from tests.faults.bed import LIMITS, QUICK, Bed, Seen, Watched
from tests.faults.storm import InStorm, storm_uri
from tests.faults.table import fault
from xreal_synth.engine.progress import ActorLost, ShardRetried, Warned
from xreal_synth.errors import EngineError

SHARD, GROUP = 2, 5
"""The shard that is struck, and a group of it."""

NEXT = 8
"""A group of the shard after the next: the gate's verdicts, and with them a shard's end, come one shard later."""


@fault("actor-killed", "SIGKILL of an actor in the midst of a shard", "a new actor, the shard redone")
def actor_killed(bed: Bed) -> Seen:
    out = bed.output()
    watched = bed.drive(out, replace(QUICK, **bed.trap(GROUP, strike)))
    seen = bed.seen(watched, out)
    seen.must(seen.retried in (1, 2), f"{seen.retried} shards retried, wanted the one struck, and one being published")
    return seen


@fault(
    "actor-killed-publishing",
    "SIGKILL of an actor that writes a shard's record and renders the next",
    "all that it had in hand redone or adopted, once",
)
def actor_killed_publishing(bed: Bed) -> Seen:
    out, record = bed.output(), f"chaos-{SHARD:06d}.json"
    trap = bed.trap(NEXT, strike, record)
    watched = bed.drive(storm_uri(out), InStorm(still=record, **trap), run=bed.run(compute__actors=1))
    seen = bed.seen(watched, out)
    again = sorted(event.shard for event in watched.of(ShardRetried) if isinstance(event, ShardRetried))
    in_hand = [SHARD, SHARD + 1, SHARD + 2]
    seen.must(again == in_hand, f"shards {again} retried, wanted the one written, judged and rendered")
    lost = len(watched.of(ActorLost))
    seen.must(lost == 1, f"{lost} actors reported lost")
    return seen


@fault("actor-hangs", "an actor that stops making images", "killed after hang_timeout_s, the shard redone")
def actor_hangs(bed: Bed) -> Seen:
    out, marks = bed.output(), bed.marks()
    backend = replace(QUICK, hang=frozenset({GROUP}), once=marks)
    watched = bed.drive(out, backend, limits=replace(LIMITS, hang_s=3.0))
    bed.happened(marks, f"hang-{GROUP}")
    seen = bed.seen(watched, out)
    reasons = [event.reason for event in watched.of(ActorLost) if isinstance(event, ActorLost)]
    seen.must(any("no new image" in reason for reason in reasons), f"lost for other reasons: {reasons}")
    return seen


@fault("shard-poisoned", "a shard that raises on every actor", "three tries, then quarantine/; the rest is made", 3)
def shard_poisoned(bed: Bed) -> Seen:
    out, _, seen = _given_up(bed, replace(QUICK, poison=frozenset({GROUP})))
    kept = (out / f"quarantine/chaos-{SHARD:06d}.json").read_text()
    seen.must(f"group {GROUP} is poison" in kept and "Traceback" in kept, "quarantine/ does not say why")
    return _mended(bed, seen, out)


@fault("shard-kills", "a shard that kills every actor it meets", "three deaths, then quarantine/; the rest is made", 3)
def shard_kills(bed: Bed) -> Seen:
    """Its storage is slow: what an actor has in hand when it meets the shard is not written yet."""
    out, watched, seen = _given_up(bed, InStorm(sleep_s=QUICK.sleep_s, die=frozenset({GROUP})), delay_ms=300)
    lost = [str(event) for event in watched.of(ActorLost)]
    seen.must(len(lost) == LIMITS.deaths, f"{len(lost)} actors lost, wanted {LIMITS.deaths}: {lost}")
    ends = [at for at, (_, event) in enumerate(watched.events) if isinstance(event, ActorLost)]
    later = [event for _, event in watched.events[ends[1] :] if isinstance(event, ShardRetried)]
    taken = [event.shard for event in later if event.shard != SHARD]
    seen.must(not taken, f"shards {taken} were lost with it once it was known to end actors")
    return _mended(bed, seen, out)


@fault("device-full", "out of memory on every actor in one shard", "the actor replaced each time; the hint is named", 3)
def device_full(bed: Bed) -> Seen:
    out, watched, seen = _given_up(bed, replace(QUICK, oom=frozenset({GROUP})))
    lost = len(watched.of(ActorLost))
    seen.must(lost == LIMITS.tries, f"{lost} actors replaced, wanted {LIMITS.tries}")
    assert watched.summary is not None, "given up by a run that ended"
    seen.said = watched.summary.failures[0].reason
    seen.must("smaller compute.micro_batch" in seen.said, "the hint is not named")
    return _mended(bed, seen, out)


@fault("model-broken", "models that fail to load", "given up after a few tries; nothing is written", 2)
def model_broken(bed: Bed) -> Seen:
    out = bed.output()
    seen = Seen(0)
    try:
        bed.drive(out, replace(QUICK, broken=True), limits=replace(LIMITS, boot_failures=2))
    except EngineError as error:
        seen = Seen(2, said=error.found)
        seen.must("asked not to load" in error.found, "the reason is not reported")
    seen.must(not out.exists(), "something was written")
    return seen


@fault("model-hangs", "an actor that never ends loading", "replaced after boot_timeout_s")
def model_hangs(bed: Bed) -> Seen:
    out, marks = bed.output(), bed.marks()
    backend = replace(QUICK, boot_hang=True, once=marks)
    watched = bed.drive(out, backend, run=bed.run(compute__actors=1), limits=replace(LIMITS, boot_s=2.0))
    bed.happened(marks, "boot")
    seen = bed.seen(watched, out)
    seen.must(len(watched.of(ActorLost)) >= 1, "no actor was replaced")
    return seen


@fault(
    "card-fails",
    "a GPU on which every shard fails at once",
    "it rests after two, and is retired when another makes one of them",
)
def card_fails(bed: Bed) -> Seen:
    return _retired(bed, "error", "failed two shards in a row")


@fault(
    "card-overflows",
    "a GPU whose numbers are not finite",
    "the same: a shard is not to blame until another actor agrees",
)
def card_overflows(bed: Bed) -> Seen:
    return _retired(bed, "overflow", "failed two shards in a row")


@fault(
    "card-computes-otherwise",
    "a GPU that makes other images in an equal environment",
    "retired by its canary image before it makes a shard",
)
def card_computes_otherwise(bed: Bed) -> Seen:
    return _retired(bed, "canary", "canary image is another", retried=0)


@fault("card-dies", "an exception after which a GPU computes nothing right", "a new actor, the shard redone")
def card_dies(bed: Bed) -> Seen:
    out = bed.output()
    watched = bed.drive(out, replace(QUICK, sick="dead", once=bed.marks()))
    seen = bed.seen(watched, out)
    reasons = [event.reason for event in watched.of(ActorLost) if isinstance(event, ActorLost)]
    seen.must(any("no longer computes" in reason for reason in reasons), f"lost for other reasons: {reasons}")
    return seen


def _retired(bed: Bed, sick: Literal["error", "overflow", "canary"], why: str, retried: int = 2) -> Seen:
    """A run of which one actor's card is sick: all is made, and the actor is told to be retired in one line."""
    out = bed.output()
    watched = bed.drive(out, replace(QUICK, sleep_s=0.4, sick=sick, once=bed.marks()))
    seen = bed.seen(watched, out)
    warned = [event.message for event in watched.of(Warned) if isinstance(event, Warned)]
    told = [message for message in warned if "gets no more shards" in message]
    seen.must(len(told) == 1 and why in told[0], f"told: {warned}")
    seen.must(seen.retried == retried, f"{seen.retried} shards retried, wanted {retried}")
    return seen


def _given_up(bed: Bed, backend: FakeImages, *, delay_ms: int = 0) -> tuple[Path, Watched, Seen]:
    """A run that leaves SHARD in quarantine/ and makes the rest; with a delay the backend is in a storm."""
    out = bed.output()
    watched = bed.drive(storm_uri(out, delay_ms=delay_ms) if delay_ms else out, backend)
    seen = bed.seen(watched, out, without={SHARD})
    assert watched.summary is not None, "the run has ended"
    given_up = watched.summary.quarantined
    seen.must(given_up == (SHARD,), f"quarantined {given_up}, wanted {(SHARD,)}")
    return out, watched, seen


def _mended(bed: Bed, seen: Seen, out: Path) -> Seen:
    """The same command again, with the fault gone, makes the dataset whole."""
    again = bed.drive(out, QUICK)
    seen.must(again.exit_code == 0, f"exit code {again.exit_code} once the fault was gone")
    bed.check(seen, out)
    return seen
