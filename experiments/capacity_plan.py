"""What large models take per device: compiled for tens of devices, by a formula for thousands.

    python -m experiments.capacity_plan                                  # all models, minutes
    python -m experiments.capacity_plan --model resnet50 --devices 8,64,512,4096

Steps are compiled for fake CPU devices from shapes alone: no array is made, nothing is run. The
formula is compared with every compiled program, and used where none was compiled ("computed"). The
least time of a step follows from published peaks. A last table has what each `--layout` takes of
the models that the commands train. docs/scale.md reads it all.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from experiments import digits
from experiments.harness.errors import bad_input
from experiments.harness.options import Options, check_least
from experiments.harness.processes import check_joining
from experiments.harness.report import Table
from experiments.harness.study import Outcome, Setting, Study
from experiments.loop.sharding import LAYOUTS
from experiments.studies.capacity import retrieval, tables
from experiments.studies.capacity.case import Case, Row, compile_row
from experiments.studies.capacity.models import recommender, residual, transformer
from experiments.studies.capacity.trained import OPTIMIZERS, characters, sequences, trained
from experiments.studies.image_options import Images
from nxtpost_jax import NxtPostConfig

MOST = 4096  # devices that divide what is dealt by rows
TOLERANCE = 0.02
TINY = {"width": 64, "layers": 2, "heads": 4, "length": 32, "vocabulary": 256, "rows": 2}


def transformers(name: str, sizes: Mapping[str, int], *, tiny: bool) -> list[Case]:
    """Return a Transformer with whole parameters, and with parameters in parts."""
    own = {**TINY, "block_size": 32} if tiny else sizes
    return [transformer(name, layout=layout, **own) for layout in ("replicated", "fsdp")]


def small(tiny: bool) -> list[Case]:
    """Return a Transformer of 1.3e9 parameters."""
    sizes = {"width": 2048, "layers": 24, "heads": 16, "length": 2048, "vocabulary": 50304}
    return transformers("Transformer 1.3B", {**sizes, "rows": 2, "block_size": 1024}, tiny=tiny)


def large(tiny: bool) -> list[Case]:
    """Return a Transformer of 7e10 parameters."""
    sizes = {"width": 8192, "layers": 86, "heads": 64, "length": 4096, "vocabulary": 32000}
    return transformers("Transformer 70B", {**sizes, "rows": 1, "block_size": 1024}, tiny=tiny)


def resnet50(tiny: bool) -> list[Case]:
    """Return ResNet-50 on 224 pixels."""
    options = Images(model="resnet8", side=16) if tiny else Images()
    how = {"classes": 10, "rows": 2} if tiny else {"classes": 1000, "rows": 32}
    return [residual("ResNet-50", layout="replicated", options=options, **how)]


def nxtpost(tiny: bool) -> list[Case]:
    """Return NxtPost with a user tower of 3e8 parameters and 1e9 items."""
    if tiny:
        config = NxtPostConfig.paper(d_model=32, num_layers=1, num_heads=2, max_len=8)
        how = {"items": 4096, "content": 16, "rows": 4, "negatives": 32}
    else:
        config = NxtPostConfig.paper(d_model=1024, num_layers=24, num_heads=16, max_len=256)
        items = -(-(10**9) // MOST) * MOST
        how = {"items": items, "content": 128, "rows": 32, "negatives": 2048}
    return [recommender("NxtPost", config=config, **how)]


def hsnn(tiny: bool) -> list[Case]:
    """Return the joint training of HSNN's models and its nodes, 1e3, 1e5 and 1e7 of them."""
    if tiny:
        sizes = {"nodes": "XS", "items": "XS"}
        how = {"codes": (4, 2), "content": 4, "rows": 32, "negatives": 8, "sizes": sizes}
    else:
        how = {"codes": (1000, 100, 100), "content": 128, "rows": 128, "negatives": 256}
    return [retrieval.joint("HSNN, joint training", **how)]


MODELS: dict[str, Callable[[bool], list[Case]]] = {
    "transformer-1.3b": small,
    "transformer-70b": large,
    "resnet50": resnet50,
    "nxtpost": nxtpost,
    "hsnn": hsnn,
}


def of_digits(layout: str, optimizer: str, *, tiny: bool) -> Case:
    """Return the perceptron of the command `digits`; it is small as it is."""
    del tiny
    return trained(
        "digits",
        init_params=lambda key: digits.MODEL.init(key, np.zeros((1, 64), np.float32)),
        loss=digits.cross_entropy,
        rows=digits.BATCH_SIZE,
        arrays={"images": ((64,), np.float32), "labels": ((), np.int32)},
        layout=layout,
        optimizer=optimizer,
    )


TRAINED: dict[str, Callable[..., Case]] = {
    "characters": characters,
    "digits": of_digits,
    "nxtpost": sequences,
}
WITHOUT_TABLES = ("digits",)  # which the layout "rows" is refused for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(Options):
    """Plan what models take of many devices."""

    model: str = ",".join(MODELS)
    """models, separated by commas"""
    devices: str = "8,64,512,4096"  # pyright: ignore[reportIncompatibleVariableOverride]  # several numbers here
    """numbers of devices, separated by commas"""
    compiled: int = 64
    """most devices that a step is compiled for"""
    check: int | None = 16
    """one more number of devices that is compiled, to check what is fitted to the others"""
    layouts: str = ",".join(TRAINED)
    """trained models whose layouts are compiled for the fewest devices; "" for none"""
    tiny: bool = False
    """models of thousands of parameters, to see that it runs"""

    def __post_init__(self) -> None:
        check_least(self, num_processes=1, compiled=1, check=1)
        check_joining(self)
        names(self.model, MODELS, flag="--model")
        names(self.layouts, TRAINED, flag="--layouts")
        self.counts  # noqa: B018  # refuses what is no number

    @property
    def counts(self) -> list[int]:
        """The numbers of devices, the fewest first."""
        words = self.devices.split(",")
        if not all(word.isdecimal() and 0 < int(word) <= MOST for word in words):
            expected = f"numbers from 1 to {MOST}, separated by commas"
            raise bad_input("--devices", expected=expected, found=self.devices)
        return sorted({int(word) for word in words})


def names(text: str, known: Mapping[str, object], *, flag: str) -> list[str]:
    """Split names; InputError where one is not known."""
    found = text.split(",") if text else []
    for name in found:
        if name not in known:
            raise bad_input(flag, expected=f"some of {', '.join(known)}", found=name)
    return found


PRESETS = {
    "default": Plan(),
    "smoke": Plan(
        model="transformer-1.3b",
        tiny=True,
        devices="4,8,16",
        compiled=8,
        check=None,
        layouts="digits",
    ),
}


def needed(options: Plan) -> int:
    """Return how many fake devices are compiled for."""
    wanted = [n for n in options.counts if n <= options.compiled]
    return max([*wanted, options.check or 1, min(options.counts)])


def plan_all(options: Plan) -> list[tables.Planned]:
    """Plan every case of every model."""
    found = []
    for name in names(options.model, MODELS, flag="--model"):
        for case in MODELS[name](options.tiny):
            how = {"compiled": options.compiled, "check": options.check}
            found.append(tables.plan(case, options.counts, **how))
            seconds = sum(row.seconds for row in found[-1].rows.values())
            print(f"{case.name}, {case.layout}: {seconds:.0f} s")
    return found


def search_rows(options: Plan) -> tuple[retrieval.Catalogue, list[retrieval.SearchRow], float]:
    """Plan the search of HSNN; also return the worst deviation from the compiled programs."""
    catalogue = retrieval.Catalogue()
    if options.tiny:
        sizes = {"width": 8, "queries": 4, "k": 5}
        nodes, budgets = (8, 64, 512), (32, 64, 128)
        catalogue = retrieval.Catalogue(items=4096, nodes=nodes, budgets=budgets, **sizes)
    rows, worst = [], 0.0
    for count in options.counts:
        if count > options.compiled:
            rows.append(retrieval.compute_search(catalogue, count))
            continue
        row, deviation = retrieval.compile_search(catalogue, count)
        rows.append(row)
        worst = max(worst, deviation)
    return catalogue, rows, worst


def layout_rows(options: Plan) -> list[tuple[Case, Row]]:
    """Compile the trained models under every layout that they take."""
    count, found = min(options.counts), []
    for name in names(options.layouts, TRAINED, flag="--layouts"):
        for optimizer, layout in itertools.product(OPTIMIZERS, LAYOUTS):
            if layout == "rows" and name in WITHOUT_TABLES:
                continue
            case = TRAINED[name](layout, optimizer, tiny=options.tiny)
            found.append((case, compile_row(case, count)))
    return found


def measure(setting: Setting[Plan]) -> Outcome:
    """Plan the models, the search and the layouts."""
    options = setting.options
    planned = plan_all(options)
    shown = [tables.table_of(of) for of in planned]
    figures: dict[int, dict[str, float]] = {n: {} for n in options.counts}
    for of in planned:
        for n, own in tables.figures_of(of).items():
            figures[n] |= own
    worst, fitted = tables.deviations_of(planned)
    if "hsnn" in names(options.model, MODELS, flag="--model"):
        catalogue, rows, deviation = search_rows(options)
        worst.append(deviation)
        shown.append(tables.search_table(rows, about=described(catalogue)))
        for row in rows:
            figures[row.devices] |= tables.search_figures(row)
    layouts = layout_rows(options)
    for case, row in layouts:
        figures[row.devices] |= tables.layout_figures(case, row)
    shown += summaries(planned, layouts)
    least = min(options.counts)
    metrics = {
        name: value for n, own in figures.items() if n != least for name, value in own.items()
    }
    return Outcome(
        title="Capacity",
        intro=f"Per device and step. Compiled for up to {options.compiled} fake CPU devices, from "
        "shapes; what is marked computed is the formula's. GB are 1e9 bytes, all arrays float32; "
        "operations are those of matrix products and convolutions.",
        protocol={"programs": "compiled for CPU, not run", "devices": options.devices},
        metrics=metrics
        | {"worst_deviation": max(worst, default=None)}
        | {"worst_deviation_temporary": max(fitted, default=None)},
        baselines=figures[least],
        tables=shown,
        found=found(worst, fitted),
    )


def described(catalogue: retrieval.Catalogue) -> str:
    """Say what is searched."""
    nodes = ", ".join(f"{n:,}" for n in catalogue.nodes)
    budgets = ", ".join(f"{n:,}" for n in catalogue.budgets)
    return (
        f"{catalogue.items:,} items of width {catalogue.width} below {nodes} nodes, slack "
        f"{catalogue.slack}; {catalogue.queries} queries a batch, budgets {budgets}, the best "
        f"{catalogue.k}."
    )


def summaries(
    planned: Sequence[tables.Planned], layouts: Sequence[tuple[Case, Row]]
) -> list[Table]:
    """Return the tables over all cases."""
    found = []
    if planned:
        found += [tables.rooflines_table(planned), tables.errors_table(planned)]
    return [*found, tables.layouts_table(layouts)] if layouts else found


def found(worst: Sequence[float], fitted: Sequence[float]) -> str:
    """Say how far the formula is from what was compiled."""
    if not worst:
        return "Nothing was compiled to check the formula by."
    within = "within" if max(worst) <= TOLERANCE else "beyond"
    said = (
        f"The worst of {len(worst)} deviations of the formula from a compiled program is "
        f"{max(worst):.3%}, {within} {TOLERANCE:.0%}."
    )
    fit = f" The fit of temporary bytes is off by {max(fitted):.2%} at most." if fitted else ""
    return said + fit


STUDY = Study(
    name="capacity_plan",
    about="large models per device, compiled and computed",
    minutes=17,
    claim="A formula gives bytes, collectives and operations per device to 2 % of the compiled "
    "programs.",
    presets=PRESETS,
    measure=measure,
    devices=needed,
)
main = STUDY.main

if __name__ == "__main__":
    main()
