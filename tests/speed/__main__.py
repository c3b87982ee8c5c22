"""`python -m tests.speed`: how much of an actor's time the engine takes, against a bare loop; `make speed`.

The same groups are generated in three ways, in turn: by the sampler alone, planned beforehand; by the engine's
worker, which plans, encodes and publishes; by the whole engine on a Ray of this machine. Then what the first image
waits for. `not in the model` is the share of wall time in neither the sampler nor the gate. CPU seconds count every
thread: where all cores are busy, theirs is the ratio that holds. Prints Markdown; exit code 3 above --most.
"""

from __future__ import annotations

import argparse
import os
import sys

from tests.doubles.tables import markdown

MISSED = 3
COLUMNS = ("way", "images/s", "x bare", "CPU ms/image", "x bare (CPU)", "not in the model", "gate", "waiting")
WORDS = {"bare": "bare loop", "worker": "worker, no Ray", "engine": "engine on Ray"}


def main(given: argparse.Namespace) -> int:
    from tests.speed.start_up import measure_start
    from tests.speed.ways import Task, WayFigures, WaysBench, figures, sleeping
    from xreal_synth.cli.evaluate_common import machine
    from xreal_synth.engine.backend import Networks
    from xreal_synth.run.resources import Resources, actor_shape, cpu_count

    gpus = _gpus() if given.sleep is None else 0
    settings: dict[str, object] = {"quality.profile": given.quality, "compute.precision": given.precision}
    if given.steps is not None:
        settings["sampling.steps"] = given.steps
    if given.micro_batch is not None or not gpus:
        settings["compute.micro_batch"] = given.micro_batch or 8
    task = Task(given.bundle, given.groups, given.shards, settings)
    run = task.run()
    shape = actor_shape(run.recipe.compute, Resources(cpu_count(), gpus))
    model = Networks() if given.sleep is None else sleeping(run, given.sleep)
    bench = WaysBench(task, model, shape, given.actors)
    rows = figures(bench.measure(given.repeats))
    size = bench.backend.micro_batch
    starts = [measure_start(task.text(1, size), given.sleep) for _ in range(given.starts)]
    what = f"{run.bundle.name}, {bench.backend.precision}" if given.sleep is None else f"a sleep of {given.sleep:g} s"
    print(
        f"Model: {what}. Machine: {machine(shape.device)}, {cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the "
        f"end. {given.groups * given.shards} groups in {given.shards} shards, {size} together, gate {given.quality}; "
        f"{given.repeats} passes of each way in turn, the fastest counts.\n"
    )

    def cells(row: WayFigures) -> list[str]:
        shares = [f"{share:.1%}" if row.way != "bare" else "" for share in (row.outside, row.gate, row.waiting)]
        speed = [f"{row.images_per_s:.3g}", f"{row.wall:.3f}", f"{1000 * row.cpu_s_per_image:.1f}", f"{row.cpu:.3f}"]
        return [WORDS[row.way], *speed, *shares]

    print("\n".join(markdown(COLUMNS, map(cells, rows))))
    if starts:
        best = min(starts, key=lambda one: one.first_image)
        parts = {**best.named(), "first image": best.first_image}.items()
        print("\n" + "\n".join(markdown(("until the first image", "seconds"), [(k, f"{v:.1f}") for k, v in parts])))
    return MISSED if any(row.way != "bare" and row.outside > given.most for row in rows) else 0


def _gpus() -> int:
    import torch

    return int(torch.cuda.is_available())


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # before numpy loads, as Ray has it in an actor of one CPU
    parser = argparse.ArgumentParser(
        prog="python -m tests.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="xreal-mini")
    parser.add_argument("--groups", type=int, default=16, help="anatomies of a shard")
    parser.add_argument("--shards", type=int, default=2, help="shards of each actor")
    parser.add_argument("--micro-batch", type=int, help="groups together; 8, on a GPU found")
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--quality", default="none", help="the gate's profile")
    parser.add_argument("--steps", type=int, help="the bundle's")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--sleep", type=float, help="a model that sleeps so many seconds over an image")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--most", type=float, default=0.03, help="share of an actor's time not in the model")
    sys.exit(main(parser.parse_args()))
