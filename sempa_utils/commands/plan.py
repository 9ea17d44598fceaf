"""`plan`: the memory of a training run, before it is tried."""

import sys

from sempa_utils import profiles
from sempa_utils.commands import shared


def add(commands) -> None:
    """Add the command and its options."""
    shapes = "--model may also be llama-2-7b, llama-3-8b or another shape; a name that is none lists them"
    about = f"How much memory training takes, part by part, before it is tried. {shapes}: nothing is downloaded. "
    about += "It counts prefix trees; a model whose batches are padded instead (doctor --model) takes more."
    command = commands.add_parser("plan", help="how much memory training takes, part by part", description=about)
    shared.add_model(command)
    shared.add_profile(command)
    shared.add_recipe(command)
    command.add_argument("--capacity", type=float, metavar="GIGABYTES", help="of your card (default: of the one here)")
    shared.add_figure(command, "the bars")
    command.set_defaults(run=run)


def run(options) -> None:
    """Print how much memory training takes, part by part, and what would fit."""
    import torch

    from sempa_utils import models
    from sempa_utils.training import memory

    profile, config = profiles.get(options.profile), memory.shape(options.model)
    precision = options.precision or profile.precision
    of = {"parameters": memory.empty(config).num_parameters(), "rows": profile.triplets or sys.maxsize}
    recipe = shared.recipe(options, **of)
    here = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else None
    capacity = options.capacity * 2**30 if options.capacity else here
    compute = models.compute_dtype("cuda") if here else None
    planned = memory.plan(config, precision, recipe=recipe, compute_dtype=compute)
    print(f"{options.model}, {recipe.objective.name}, {precision}, micro-batch {recipe.micro_batch}, planned in GiB")
    for part, size in planned.items():
        print(f"{part:>12} {size / 2**30:8.2f}")
    print(f"{'total':>12} {memory.total(planned) / 2**30:8.2f}")
    if precision == "nf4" and (unpacked := models.left_by_nf4(memory.empty(config))):
        print(unpacked)
    if capacity:
        print(memory.advice(config, precision, recipe=recipe, capacity_bytes=int(capacity), compute_dtype=compute))
    if options.figure:
        from sempa_utils.plots.training import memory_bars

        figure = memory_bars({f"{options.model}, {options.profile}": planned}, capacity)
        shared.save_figure(figure, options.figure)
