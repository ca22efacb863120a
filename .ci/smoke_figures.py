"""Run the smoke preset of every command, or compare the figures of two such runs.

    python .ci/smoke_figures.py run FOLDER            # about ten minutes on 2 cores
    python .ci/smoke_figures.py compare BEFORE AFTER  # exit code 1 where a figure differs

A change that is not meant to change results is checked by running this before and after it, with
the same packages installed. Times and what follows from them are left out: `NOT_COMPARED`.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

HSNN = ("frontier", "scorers", "learning", "scale", "planted", "drift", "interests")
OPTIMIZED = ("digits", "mnist", "cifar10", "characters", "sequences")
COMMANDS = {
    "digits": ["digits"],
    "nxtpost": ["nxtpost"],
    "fresh_items-items": ["fresh_items", "--split", "items"],
    "cold_users": ["cold_users"],
    "nxtpost_ablation": ["nxtpost_ablation"],
    "staleness": ["staleness"],
    **{f"shampoo_ablation-{task}": ["shampoo_ablation", task] for task in OPTIMIZED},
    "shampoo_scaling": ["shampoo_scaling"],
    "step_profile": ["step_profile"],
    "step_time": ["step_time"],
    **{f"hsnn-{task}": ["hsnn", task] for task in HSNN},
    "end_to_end": ["end_to_end"],
}
# Measured with a clock, or made from such a figure.
NOT_COMPARED = re.compile(
    r"seconds|_ms$|[/ ]ms$|ms[ /]|/s\b|per_s|p50|p99|latency|\bs$|overhead|ratio|share of"
    r"|input share|loop / bare|epoch s|/ floor|times|qps|queries_a_second|us$"
)
TIMED = {"step_time", "step_profile"}  # every figure of theirs is a time


def run(folder: Path) -> None:
    """Leave a run folder of every command in `folder`; one that has a summary is not run again."""
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    for name, words in COMMANDS.items():
        out = folder / name
        if (out / "summary.json").exists():
            continue
        module, *flags = words
        command = [sys.executable, "-m", f"experiments.{module}", *flags, "--preset", "smoke"]
        print(name, flush=True)
        with (folder / f"{name}.log").open("w") as log:
            arguments = [*command, "--devices", "2", "--out", str(out)]
            subprocess.run(arguments, env=environment, stdout=log, stderr=log, check=True)


def figures(path: Path) -> dict[str, float]:
    """Read the figures of a summary that are compared."""
    if path.parent.name in TIMED:
        return {}
    summary = json.loads(path.read_text())
    flat = {f"{kind}/{k}": v for kind in ("metrics", "baselines") for k, v in summary[kind].items()}
    return {key: value for key, value in flat.items() if not NOT_COMPARED.search(key)}


def names(path: Path) -> set[str]:
    """Read the names of all figures of a summary, times among them."""
    summary = json.loads(path.read_text())
    return {f"{kind}/{k}" for kind in ("metrics", "baselines") for k in summary[kind]}


def compare(before: Path, after: Path) -> int:
    """Print every difference; return their number."""
    differences, compared, left_out, new_names = 0, 0, set(), set()
    for name in COMMANDS:
        paths = [folder / name / "summary.json" for folder in (before, after)]
        old, new = map(figures, paths)
        left_out |= {f"{name}: {key}" for key in names(paths[0]) - set(old)}
        lost = names(paths[0]) - names(paths[1])
        new_names |= {f"{name}: {key}" for key in names(paths[1]) - names(paths[0])}
        for key in sorted(lost):
            print(f"{name}: {key} is gone")
        for key in sorted(set(old) & set(new)):
            compared += 1
            if old[key] != new[key]:
                print(f"{name}: {key}: {old[key]} before, {new[key]} after")
                differences += 1
        differences += len(lost)
    print(
        f"{compared} figures compared, {differences} differences, {len(left_out)} times left out, "
        f"{len(new_names)} figures are new"
    )
    return differences


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"] and len(sys.argv) == 3:
        Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
        run(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["compare"] and len(sys.argv) == 4:
        raise SystemExit(bool(compare(*map(Path, sys.argv[2:]))))
    else:
        raise SystemExit(__doc__)
