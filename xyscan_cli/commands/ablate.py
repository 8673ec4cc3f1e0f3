"""`xyscan ablate`: the paper's ablation tables, each variant trained, measured and profiled."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xyscan_cli import console, machine, options, outputs
from xyscan_cli.arguments import listed, parse_size
from xyscan_cli.commands import _ablate_report as report
from xyscan_cli.networks import pick_device
from xyscan_cli.stopping import StopOnSignal
from xyscannet.errors import ConfigError

if TYPE_CHECKING:
    from xyscannet.analysis.ablation import Plan
    from xyscannet.reports.ablations import Ablation


class Study(str, Enum):
    """The paper's ablation tables."""

    vssm = "vssm"
    scan = "scan"
    slices = "slices"
    fusion = "fusion"


def command(
    study: Annotated[
        Study,
        typer.Argument(
            help="vssm: Table 5, the vision module of MambaIR and ours. scan: Table 6, one direction and both. "
            "slices: Table 7, inter, intra and both. fusion: Table 8, plain skip, AFF, KLFF with either gate.",
            show_default=False,
        ),
    ],
    iterations: Annotated[
        int | None,
        typer.Option("--iterations", min=1, help="Training steps of a cell.", show_default="the recipe's"),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Runs of each variant, which are averaged.")
    ] = 4,
    variants: Annotated[
        str | None,
        typer.Option("--variants", metavar="NAME,...", help="Only these of the table's.", show_default="all"),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a value of the recipe, as model.width=8. Repeatable."
        ),
    ] = None,
    perceptual_weights: options.PerceptualWeightsOption = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--eval",
            metavar="NAME=FOLDER",
            help="A set to measure on: gopro, hide, rwbi, realblur-j where the table has it, or pairs of any other "
            "name. Repeatable.",
            show_default="the table's sets in $XYSCAN_DATA",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="The first N images of each set only.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="RUNS",
            parser=options.local,
            help="The cells' folder, for all tables.",
            show_default="runs/ablation",
        ),
    ] = None,
    rebuild: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUNS",
            parser=options.local,
            help="Make the table of what a folder holds; train nothing.",
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Measure anew where other sets or metrics were measured; training is kept."
        ),
    ] = False,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", metavar="HxW", help="Image size to profile at.", show_default="the first set's"
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="Repetitions of each timing; the median is shown.")
    ] = 5,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure peak memory too.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and exit.")] = False,
    json_path: options.JsonOption = None,
    csv_path: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", parser=options.local, help="A line for every cell."),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", parser=options.local, help="The table.")
    ] = None,
    latex: Annotated[
        Path | None,
        typer.Option("--latex", metavar="FILE", parser=options.local, help="The table, for a paper."),
    ] = None,
    device: options.DeviceOption = "auto",
    offline: Annotated[bool, typer.Option("--offline", help="Download no metric's weights.")] = False,
    quiet: options.QuietOption = False,
) -> None:
    """Make one of the paper's ablation tables: train every variant, measure it, and time it.

    A cell is one variant trained from one seed with the recipe `ablation`. Cells are kept: a run that was interrupted
    goes on where it stopped, and a cell that fails (exit code 1) does not stop the others and is tried again by the
    next run. The tables share their folder, and the variants that they have in common. Cells of other settings are
    never mixed in.

    Examples:

    xyscan ablate slices

    xyscan ablate slices --iterations 200 --seeds 2 --set model.width=8 --set data.patch=48 --set loss.contrastive=0

    xyscan ablate slices --from runs/ablation --latex table7.tex
    """
    console.set_quiet(quiet)
    files = {"--csv": csv_path, "--markdown": markdown, "--latex": latex}
    if json_path is not None and str(json_path) != "-":
        files["--json"] = json_path
    for option, path in files.items():
        outputs.file(option, path)

    from xyscannet.analysis import ablation

    chosen = _chosen(study.value, variants)
    if rebuild is not None:
        table = ablation.collect(rebuild, study.value, chosen)
    else:
        place = pick_device(device)
        given_sets = ablation.parse_given(given or [])
        changed = [*(overrides or []), *options.perceptual_weights(perceptual_weights)]
        recipe = ablation.recipe(iterations, changed, place)
        sets, gaps = ablation.find_sets(
            study.value, given_sets, limit=limit, device=str(place), offline=offline
        )
        shape = parse_size(size, "--size") if size else ablation.image_size(sets[0])
        plan = ablation.Plan(
            study=study.value,
            folder=out or Path("runs") / "ablation",
            recipe=recipe,
            variants=chosen,
            seeds=seeds,
            sets=sets,
            gaps=gaps,
            device=place,
            offline=offline,
            fresh=fresh,
            facts=_facts(place),
        )
        held = ablation.held(plan)
        report.print_plan(plan, held, shape)
        if dry_run:
            return
        table = _run(plan, held, shape, repeats, memory)
    report.write(table, files)
    report.show(table, json_path)
    if report.print_failures(table):
        raise typer.Exit(1)


def _chosen(study: str, text: str | None) -> list[str]:
    """The variants that are asked for, in the table's order."""
    from xyscannet.analysis.ablation import STUDIES

    rows = list(STUDIES[study].rows)
    names = rows if text is None else listed(text, "--variants")
    for name in names:
        if name not in rows:
            raise ConfigError(f"--variants: {name!r} is not in this table, which has {', '.join(rows)}")
    return [row for row in rows if row in names]


def _run(plan: Plan, held: report.Held, shape: tuple[int, int], repeats: int, memory: bool) -> Ablation:
    """Train and measure what is missing, then profile all variants in turn."""
    from xyscannet.analysis import ablation
    from xyscannet.training.loop import Interrupted

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("an ablation trains in one process; share its cells among machines with --variants")
    stop = StopOnSignal()
    with report.Watching(plan, held, stop) as watcher:
        try:
            cells = list(ablation.run(plan, watcher))
        except Interrupted as interrupted:
            console.say(str(interrupted).replace("--resume auto", "the same command"))
            raise KeyboardInterrupt from None
    record = ablation.profile(plan, shape, repeats=repeats, memory=memory, tell=console.say)
    facts = {**plan.facts, "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    return ablation.tabulate(plan.study, cells, record, seeds=plan.seeds, gaps=plan.gaps, **facts)


def _facts(device: Any) -> dict[str, Any]:
    return {
        "versions": machine.versions(),
        "machine": machine.device_name(device),
        "command": console.given(),
    }
