"""`xyscan eval`: measure restored images on a data set, beside the paper's numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xyscan_cli import console, machine, networks, options, outputs
from xyscan_cli.commands import _eval_places as places
from xyscan_cli.commands import _eval_report as report
from xyscan_cli.commands import _eval_sources as measured
from xyscan_cli.progress import Progress
from xyscannet.errors import ConfigError

if TYPE_CHECKING:
    from xyscannet.data.datasets import Dataset
    from xyscannet.evaluation import Journal, Source
    from xyscannet.reports.results import Evaluation

GROUPS = {
    "distortion": ("psnr", "ssim"),
    "perceptual": ("lpips-alex", "lpips-vgg", "st-lpips", "niqe", "dists"),
    "distribution": ("fid", "kid"),
}
ALIGNED = {"psnr": "psnr-realblur", "ssim": "ssim-realblur"}


class Set(str, Enum):
    """Data sets that are known by name."""

    gopro = "gopro"
    hide = "hide"
    rwbi = "rwbi"
    realblur_j = "realblur-j"
    realblur_r = "realblur-r"


class Protocol(str, Enum):
    """How PSNR and SSIM are taken; `auto` is `realblur` for RealBlur."""

    auto = "auto"
    plain = "plain"
    realblur = "realblur"


def command(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME|FILE|FOLDER",
            help="What to measure: networks, weights, or folders of restored images. Default: "
            "xyscannet-s on a CPU, xyscannet-b on a GPU.",
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[Set | None, typer.Option("--dataset", help="A known data set's test split.")] = None,
    pairs: Annotated[
        tuple[str, str] | None,
        typer.Option("--pairs", metavar="BLUR SHARP", help="Two folders of pairs instead of a known set."),
    ] = None,
    restored: Annotated[
        str | None,
        typer.Option("--restored", metavar="DIR", help="A folder of restored images, with --sharp."),
    ] = None,
    sharp: Annotated[str | None, typer.Option("--sharp", metavar="DIR", help="Their sharp partners.")] = None,
    root: Annotated[
        str | None,
        typer.Option(
            "--root",
            metavar="DIR",
            help="Where the set lies; without --dataset, any folder of pairs.",
            show_default="$XYSCAN_DATA",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="test|train", help="Split of the known set.")
    ] = "test",
    weights: options.WeightsOption = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="NAME,...",
            help="psnr, ssim, lpips-alex, lpips-vgg, st-lpips, niqe, dists, fid, kid, pyiqa:NAME; or the groups "
            "distortion, perceptual, distribution.",
            show_default="psnr,ssim; niqe without sharp images",
        ),
    ] = None,
    protocol: Annotated[
        Protocol, typer.Option("--protocol", help="realblur: PSNR and SSIM after RealBlur's alignment.")
    ] = Protocol.auto,
    patch: Annotated[
        int | None,
        typer.Option("--patch", min=32, help="FID and KID of patches of N pixels, not whole images."),
    ] = None,
    subset: Annotated[
        int, typer.Option("--kid-subset", min=2, help="Images in one of KID's subsets.")
    ] = 1000,
    blurred: Annotated[bool, typer.Option("--blurred", help="Measure the blurred input too.")] = False,
    paired: Annotated[
        bool, typer.Option("--paired", help="Compare two sources image by image: the second minus the first.")
    ] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The first N images only.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            parser=options.journal,
            help="Journal, results and images: a folder of this machine.",
            show_default="runs/eval-SET",
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the restored images in the folder.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew instead of going on with an interrupted run.")
    ] = False,
    page: Annotated[
        str | None,
        typer.Option(
            "--report", metavar="page.html", help="Write one page to look at. Keeps the restored images."
        ),
    ] = None,
    figures: Annotated[
        str | None,
        typer.Option("--figures", metavar="DIR", help="Write figures. Keeps the restored images."),
    ] = None,
    json_path: options.JsonAnywhereOption = None,
    csv_path: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="A line for every image.")
    ] = None,
    markdown: Annotated[str | None, typer.Option("--markdown", metavar="FILE", help="The table.")] = None,
    latex: Annotated[
        str | None, typer.Option("--latex", metavar="FILE", help="The table, for a paper.")
    ] = None,
    paper: Annotated[
        bool,
        typer.Option("--paper/--no-paper", help="Show the paper's rows for a known test split around ours."),
    ] = True,
    device: options.DeviceOption = "auto",
    cluster: options.ClusterOption = None,
    cpus_per_worker: options.CpusOption = None,
    dtype: options.DTypeOption = options.DType.auto,
    scan: options.ScanOption = options.Scan.auto,
    tile: Annotated[str, typer.Option("--tile", metavar="auto|none|N", help="As in xyscan deblur.")] = "auto",
    scales: Annotated[
        str,
        typer.Option(
            "--scales",
            metavar="auto|1|2|3|4",
            help="As in xyscan deblur, but 1 by default, as papers measure.",
        ),
    ] = "1",
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Average over the 8 flips and rotations: 8 times the time.")
    ] = False,
    channel_order: options.ChannelOrderOption = options.ChannelOrder.rgb,
    offline: Annotated[bool, typer.Option("--offline", help="Download no metric's weights.")] = False,
    quiet: options.QuietOption = False,
) -> None:
    """Measure restored images on a data set, beside the paper's numbers.

    Metrics see the 8-bit images that a user would get. A run that was interrupted goes on where it stopped. Whatever
    is read or written, but for --out, may be at an address: s3://, gs://, https:// (to read) and whatever else fsspec
    knows. Exit code 1 if an image failed, 3 if the set, a place for results, or a metric's package or weights are not
    there.

    Examples:

    xyscan eval --dataset gopro --root data/ --metrics distortion,perceptual --report gopro.html

    xyscan eval --pairs blurry/ sharp/ --blurred

    xyscan eval theirs/ ours/ --paired --dataset realblur-j

    xyscan eval --root s3://bucket/gopro --report s3://bucket/gopro.html
    """
    console.set_quiet(quiet)
    given = {
        "--report": page,
        "--json": json_path,
        "--csv": csv_path,
        "--markdown": markdown,
        "--latex": latex,
    }
    files = {option: outputs.file(option, text) for option, text in given.items()}
    drawings = outputs.folder(figures)
    if isinstance(drawings, Path) and drawings.exists() and not drawings.is_dir():
        raise ConfigError(f"--figures {drawings}: is a file; name a folder")
    if drawings is not None:
        from xyscannet.reports.figures import canvas

        canvas.check_matplotlib()
    named = [*(sources or []), *([weights] if weights else [])]
    if paired and len(named) != 2:
        raise ConfigError(f"--paired compares two sources, not {len(named)}")
    found, as_they_are = measured.images(
        dataset and dataset.value, pairs, restored, sharp, root, split, bool(named), blurred
    )
    paper = paper and found.split == "test"  # which folders that are merely named like a set do not have
    samples = found.samples[:limit]
    kind = _protocol(protocol, found.name)
    wanted = _metrics(metrics, kind, all(sample.sharp is not None for sample in samples))
    report.print_set(found, len(samples), kind)
    tile_size, how_many = networks.tile_size(tile), networks.number_of_scales(scales)

    from xyscannet.evaluation import Journal
    from xyscannet.evaluation.engine import identity
    from xyscannet.metrics import registry
    from xyscannet.metrics.distribution import DistributionSettings

    networks.refuse_cpus_without(cluster, cpus_per_worker)
    where = places.here if cluster is None else partial(places.on_cluster, cluster, cpus_per_worker)
    how = {
        "tile": tile_size,
        "scales": how_many,
        "ensemble": ensemble,
        "channel_order": channel_order.value,
    }
    folder = out or Path("runs") / f"eval-{report.safe(found.name)}"
    keep = keep or page is not None or figures is not None
    distribution = DistributionSettings(patch=patch, subset_size=subset)
    facts = {
        "versions": machine.versions(),
        "command": console.given(),
    }
    settings = {
        "split": found.split,
        "layout": found.layout,
        "problems": list(found.problems),
        "limit": limit,
    }
    known = {"dataset": found.name, "protocol": kind}
    if any(registry.info(name).kind != "image" for name in wanted):
        known |= {"patch": patch, "kid_subset": subset}
    evaluations = []
    build = partial(registry.build_all, wanted, offline=offline, distribution=distribution)
    with where(device, dtype, scan, **how) as runs, ExitStack() as stack:
        chosen = [*measured.sources(named, as_they_are, blurred, found.samples, runs)]
        homes = report.homes(folder, [label for label, _ in chosen])
        inputs = [*named, *(pairs or ()), *filter(None, (restored, sharp))]
        for home in homes:
            measured.refuse_inputs(home, keep and as_they_are is None, found.samples, inputs)
        ready = []
        for (_, make), home in zip(chosen, homes, strict=True):
            # Who has kept images goes on to: a report that is asked for later shows them all.
            kept = keep or (not fresh and Journal.identity_in(home).get("kept") == "True")
            ready.append(make(home / "restored" if kept else None))
        built = build(device=str(runs.loaded))
        journals = []
        for source, home in zip(ready, homes, strict=True):
            kept = str(getattr(source, "keep", None) is not None)
            journal = Journal(home, identity(samples, source, built, kept=kept, **known), fresh=fresh)
            journals.append(stack.enter_context(journal))
        for source, journal in zip(ready, journals, strict=True):
            if len(ready) > 1:
                console.say(f"measuring {source.label}")
            across = runs.across(samples, source, build)
            told = {**facts, "machine": runs.machine, "across": across}
            evaluations.append(_evaluate(found, samples, source, built, journal, kind, settings, told))
    comparison = None
    if paired:
        from xyscannet.evaluation import compare

        comparison = compare(evaluations[-2], evaluations[-1])
    try:
        report.write(evaluations, comparison, paper, files, drawings, homes)
    finally:  # not before: whoever reads stdout may have left
        report.show(evaluations, comparison, paper, str(files["--json"]) == "-")
    if report.print_failures(evaluations):
        raise typer.Exit(1)


def _protocol(protocol: Protocol, name: str) -> str:
    if protocol is Protocol.auto:
        from xyscannet.data.sets import REALBLUR, by_folder

        known = by_folder(re.sub(r"[\W_]+(test|train)$", "", name, flags=re.IGNORECASE)) or ""
        return "realblur" if known.startswith(REALBLUR) else "plain"
    return protocol.value


def _metrics(text: str | None, protocol: str, with_sharp: bool) -> list[str]:
    """The registry names that are asked for."""
    from xyscannet.metrics import registry

    if text is None:
        text = "psnr,ssim" if with_sharp else "niqe"
    names: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        names += GROUPS.get(part, (part,))
    if not names:
        raise ConfigError("--metrics: give one metric at least")
    names = [ALIGNED.get(name, name) if protocol == "realblur" else name for name in names]
    names = list(dict.fromkeys(registry.info(name).name for name in names))
    needing = [name for name in names if registry.info(name).needs_sharp]
    if needing and not with_sharp:
        raise ConfigError(f"--metrics: {', '.join(needing)} need sharp images, which this set does not have")
    return names


def _evaluate(
    found: Dataset,
    samples: Sequence[Any],
    source: Source,
    metrics: Sequence[Any],
    journal: Journal,
    protocol: str,
    settings: dict[str, Any],
    facts: dict[str, Any],
) -> Evaluation:
    from xyscannet.evaluation import evaluate

    with Progress(len(samples), "images", before=len(journal.images)) as bar:
        if journal.images:
            console.say(f"{source.label}: {len(journal.images)} images were measured before")
        return evaluate(
            samples,
            source,
            metrics,
            journal,
            dataset=found.name,
            protocol=protocol,
            expected=found.expected,
            settings={**settings, **source.identity},
            progress=lambda done, name: bar.update(done, name=name),
            **facts,
        )
