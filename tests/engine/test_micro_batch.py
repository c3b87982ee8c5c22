"""The micro-batch: the rule by which it is found, and a real tiny model under it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from xreal_synth.engine.backend import Networks
from xreal_synth.engine.micro_batch import Trial, find_micro_batch, measure_torch
from xreal_synth.engine.ray_actor import failure_of
from xreal_synth.errors import EngineError
from xreal_synth.run.resources import Resources, actor_shape


def device(rates, memory, room):
    """A device by its images per second and memory share at each size; sizes above `room` do not fit."""
    return lambda size: Trial(size, rates(size), memory(size)) if size <= room else None


@pytest.mark.parametrize(
    ("rates", "memory", "room", "largest", "kept", "tried"),
    [
        (lambda n: n, lambda n: n / 1000, 999, 256, 256, 9),
        (lambda n: min(n, 16), lambda n: 0.1, 999, 256, 16, 6),
        (lambda n: min(n, 16) * 1.04 ** (n > 16), lambda n: 0.1, 999, 256, 16, 6),
        (lambda n: n, lambda n: n / 20, 999, 256, 16, 6),
        (lambda n: n, lambda n: 0.1, 30, 256, 16, 5),
        (lambda n: n, lambda n: 0.1, 999, 12, 8, 4),
        (lambda n: n, lambda n: 0.95, 999, 256, 1, 1),
    ],
)
def test_doubled_until_it_gains_little_or_fills_the_memory(rates, memory, room, largest, kept, tried):
    found, trials = find_micro_batch(device(rates, memory, room), largest)
    assert found == kept
    assert [trial.micro_batch for trial in trials] == [2**power for power in range(tried)]


def test_no_room_for_one_group_is_an_error():
    with pytest.raises(EngineError, match="not even one group"):
        find_micro_batch(lambda size: None)


def test_a_real_model_is_measured_and_keeps_what_it_found(open_fault_run):
    run = open_fault_run(anatomies=4, output__shard_samples=32)
    shape = replace(actor_shape(run.recipe.compute, Resources(1, 0)), micro_batch=None)
    backend = Networks().open(run, shape)
    assert backend.micro_batch in (1, 2, 4)
    assert backend.trials[0].micro_batch == 1
    assert all(trial.images_per_s > 0 and trial.memory == 0 for trial in backend.trials)
    trial = measure_torch(run, backend, 2, share=0)
    assert trial is not None
    assert trial.micro_batch == 2


def test_a_size_whose_allocation_fails_is_one_that_does_not_fit(open_fault_run, monkeypatch):
    run = open_fault_run(anatomies=8, output__shard_samples=64)
    backend = Networks().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    whole, released = backend.model.denoise, []

    def denoise(z, *given, **named):
        if len(z) > 4:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return whole(z, *given, **named)

    monkeypatch.setattr(backend.model, "denoise", denoise)
    monkeypatch.setattr(backend.model, "release", lambda: released.append(backend.micro_batch))
    assert measure_torch(run, backend, 4, share=0) is None, "guidance takes two rows of each"
    assert measure_torch(run, backend, 2, share=0) is not None
    assert released == [4, 2], "recordings of a size are forgotten before the next is tried"
    monkeypatch.setattr(backend.model, "denoise", lambda *given, **named: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measure_torch(run, backend, 2, share=0)


def test_a_micro_batch_is_half_of_a_shard_at_most(open_fault_run):
    run = open_fault_run(anatomies=4, output__shard_samples=3)
    shape = replace(actor_shape(run.recipe.compute, Resources(1, 0)), micro_batch=None)
    assert [trial.micro_batch for trial in Networks().open(run, shape).trials] == [1]


def test_out_of_memory_names_the_hint_and_spoils_the_actor():
    failed = failure_of(type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"))
    assert failed.spoiled
    assert failed.cause == "error"
    assert "smaller compute.micro_batch" in failed.reason
