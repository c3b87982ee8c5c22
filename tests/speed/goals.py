"""`python -m tests.speed.goals`: what images cost on this code, a row for each goal that was set; `make speed`.

Rows of the denoiser are those that `plan` tells, which a test counts at its door. What a worker takes of a sleeping
model's time is told by the clock, which a busy machine stretches, and by processor time, which it hardly does. Core
seconds are CPU seconds of a worker with the gate `standard`, whole process, on one core. The plain loop is the released
code's way with the same network: one image at a time, 100 steps, guidance by two calls.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from tests.doubles.tables import markdown


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure as it is here beside what was wanted, `met` or not."""

    figure: str
    wanted: str
    here: str
    met: bool


def rows_of_an_image() -> list[Goal]:
    """Rows for an image with a finding, alone and with its healthy counterfactual, by xreal-mini's own settings."""
    from tests.speed.ways import Task
    from xreal_synth.engine.estimate import estimate

    alone, distilled, both = (
        estimate(Task("xreal-mini", 8, 1, settings).run(), 1.0)
        for settings in (
            {"pairs.twin": "false"}, {"pairs.twin": "false", "sampling.guidance": 1}, {"pairs.twin": "true"}
        )
    )  # fmt: skip
    pair, single = both.evaluations_per_twin + both.evaluations_per_edit, alone.evaluations_per_edit
    lone = distilled.evaluations_per_edit
    return [
        Goal("network rows, an image with a finding alone (joint)", "<= 17", str(single), single <= 17),
        Goal("the same with a bundle of distilled guidance", "<= 12", str(lone), lone <= 12),
        Goal("network rows, an image with a finding and its healthy counterfactual (branch)", "<= 17", str(pair),
             pair <= 17),
    ]  # fmt: skip


def seconds_of_an_image(groups: int, shards: int) -> list[Goal]:
    """CPU seconds of a worker, and images per second over the plain loop's."""
    import torch

    from tests.speed.ways import Task, WaysBench, figures
    from xreal_synth.engine.backend import Networks
    from xreal_synth.evaluation.bench_sample import SampleBench, loop_settings, rows_of
    from xreal_synth.models.describe import describe
    from xreal_synth.models.layers import resolve_precision
    from xreal_synth.run.resources import Resources, actor_shape

    found = []
    for name, findings in (("joint", "false"), ("branch", "true")):
        settings = {"quality.profile": "standard", "compute.micro_batch": 8, "pairs.twin": findings}
        task = Task("xreal-mini", groups, shards, settings)
        bench = WaysBench(task, Networks(), actor_shape(task.run().recipe.compute, Resources(1, 0)), 1)
        found.append((name, figures(bench.measure(1, ("bare", "worker")))[1]))
    precision = resolve_precision("auto", "cpu")
    info = describe("xreal-mini")
    loop = SampleBench(info, loop_settings(info, 100), torch.device("cpu"), None, "cpu")
    (plain,) = loop.measure(rows_of(("plain-cached",), [1], precision, [None]), 1).rows
    assert plain.seconds is not None, "one image fits"
    goals = [
        Goal(f"core seconds an image, xreal-mini, gate in ({name})", "<= 0.45", f"{row.cpu_s_per_image:.2f}",
             row.cpu_s_per_image <= 0.45)
        for name, row in found
    ]  # fmt: skip
    times = plain.seconds / found[0][1].cpu_s_per_image
    goals.append(Goal("images per core second over the plain loop's, which takes "
                      f"{plain.seconds:.1f} s", ">= 50", f"{times:.0f}", times >= 50))  # fmt: skip
    return goals


def engine_figures() -> list[Goal]:
    """What the engine wastes beside the model."""
    from tests.scale.run import simulate
    from tests.scale.world import ShardTimes, World
    from tests.speed.rows import count_rows
    from tests.speed.ways import Task, WaysBench, sleeping
    from xreal_synth.run.resources import Resources, actor_shape

    useful = count_rows(48, 64, 32, 0.1).share
    task = Task("xreal-mini", 64, 6, {"quality.profile": "none", "compute.micro_batch": 8})
    shape = actor_shape(task.run().recipe.compute, Resources(1, 0))
    passes = WaysBench(task, sleeping(task.run(), 0.013), shape, 1).measure(2, ("worker",))
    outside = min(one.outside for one in passes)
    beside = min(one.beside_s / one.images for one in passes) / 0.013
    sick = simulate(World(4096, ShardTimes(60.0, 0.2), failing=3, overflowing=1), 12_000)
    gone = sick.quarantined + sick.lost
    return [
        Goal(
            "useful over paid rows, 10% refused, 32 together, shards of 64", ">= .97", f"{useful:.3f}", useful >= 0.97
        ),
        Goal("not in the model, 0.013 s an image, by the clock", "< 1.5%", f"{outside:.1%}", outside < 0.015),
        Goal("the same, by the model's thread's processor time", "< 1.5%", f"{beside:.1%}", beside < 0.015),
        Goal(
            "shards lost of 12,000, 4,096 actors, 3 cards failing in 0.2 s and one not finite", "0", str(gone), not gone
        ),
    ]


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # before numpy loads
    from xreal_synth.cli.evaluate_common import machine

    print(f"Machine: {machine('cpu')}, load {os.getloadavg()[0]:.1f} at the beginning.\n")
    goals = [*rows_of_an_image(), *engine_figures(), *seconds_of_an_image(16, 2)]
    cells = [(goal.figure, goal.wanted, goal.here, "" if goal.met else "missed") for goal in goals]
    print("\n".join(markdown(("figure", "goal", "here", ""), cells)))
