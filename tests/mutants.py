"""Mutation testing: small faults drawn by a seed, one at a time, and the tests that must notice.

    python -m tests.mutants --count 300 --seed 0 --out mutants.jsonl   # goes on where it stopped
    python -m tests.mutants --show mutants.jsonl                       # what survived

A mutant is one change in the source of a core: a comparison, an operator, a number, a condition, a
removed call. Its tests run with -x in a copy of the last commit. It is killed when one fails, or
when they take five times as long; it survives when all pass. Every survivor needs a new test, or a
reason why no test can tell it from the original (docs/reliability.md).
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
NX, HS, SH, EX = ("tests/" + name for name in ("nxtpost", "hsnn", "shampoo", "experiments"))
REFERENCE = (f"{SH}/test_reference.py", f"{SH}/test_reference_trajectories.py")
FIT = (f"{NX}/training/test_fitting.py", f"{NX}/serving/test_recommender.py")
SEARCH = (f"{HS}/descent/test_search.py", f"{HS}/descent/test_search_levels.py")
OF_POOLS = (f"{HS}/descent/test_descend_flops.py", f"{HS}/serving/test_pool.py")
ESTIMATE = (f"{HS}/serving/test_retriever_recall.py",)
RETRIEVER = (f"{HS}/serving/test_retriever.py", f"{HS}/serving/test_retriever_growth.py")
# The files whose faults lose or falsify results, and their tests, the quick ones first.
CORES: dict[str, Sequence[str]] = {
    "shampoo_jax/plan.py": (
        *(f"{SH}/test_plan.py", f"{SH}/test_state.py", f"{SH}/test_dimension_numbers.py"),
        *REFERENCE,
    ),
    "shampoo_jax/step.py": (f"{SH}/test_contract.py", f"{SH}/test_faults.py", *REFERENCE),
    "shampoo_jax/refreshing.py": (
        *(f"{SH}/test_state.py", f"{SH}/test_faults.py", *REFERENCE, f"{SH}/test_step_vmap.py"),
    ),
    "shampoo_jax/layout.py": (f"{SH}/test_packing.py", *REFERENCE),
    "shampoo_jax/distribution.py": (f"{SH}/test_distribution.py", f"{SH}/test_program.py"),
    "shampoo_jax/checkpoint.py": (
        *(f"{SH}/test_checkpoint.py", f"{SH}/test_checkpoint_wrappers.py"),
        f"{SH}/test_checkpoint_property.py",
    ),
    "nxtpost_jax/events/batches.py": (f"{NX}/events/test_batches.py", *FIT),
    "nxtpost_jax/events/splits.py": (f"{NX}/events/test_splits.py",),
    "nxtpost_jax/events/sequences.py": (f"{NX}/events/test_sequences.py",),
    "nxtpost_jax/training/losses.py": (
        *(f"{NX}/training/test_losses.py", f"{NX}/training/test_losses_trends.py"),
    ),
    "nxtpost_jax/training/full_softmax.py": (
        *(f"{NX}/training/test_full_softmax.py", f"{NX}/training/test_losses_trends.py"),
    ),
    "nxtpost_jax/training/negatives.py": (
        *(f"{NX}/training/test_negatives.py", f"{NX}/training/test_losses.py"),
    ),
    "nxtpost_jax/evaluation/ranking.py": (f"{NX}/evaluation/test_ranking.py",),
    "nxtpost_jax/evaluation/metrics.py": (f"{NX}/evaluation/test_ranking.py",),
    "nxtpost_jax/serving/streaming.py": (
        *(f"{NX}/serving/test_streaming.py", f"{NX}/serving/test_live_users.py"),
    ),
    "nxtpost_jax/serving/catalogue.py": (
        *(f"{NX}/serving/test_catalogue.py", f"{NX}/serving/test_recommender_changing_items.py"),
    ),
    "hsnn_jax/descent/descend.py": (*SEARCH, *OF_POOLS, *ESTIMATE),
    "hsnn_jax/descent/beam.py": (
        *(f"{HS}/descent/test_beam.py", *SEARCH, f"{HS}/descent/test_sharded.py"),
    ),
    "hsnn_jax/descent/search.py": (*SEARCH, f"{HS}/descent/test_search_nan_scores.py"),
    "hsnn_jax/lists/assignment.py": (f"{HS}/lists/test_index.py", f"{HS}/lists/test_living.py"),
    "hsnn_jax/lists/edits.py": (f"{HS}/lists/test_living.py", *RETRIEVER),
    "hsnn_jax/lists/index.py": (f"{HS}/lists/test_index.py", f"{HS}/lists/test_living.py"),
    "hsnn_jax/lists/living.py": (f"{HS}/lists/test_living.py", *RETRIEVER),
    "experiments/loop/training.py": (
        *(f"{EX}/loop/test_training.py", f"{EX}/loop/test_checkpoints.py"),
        *(f"{EX}/loop/test_restoring.py", f"{EX}/loop/test_resume.py"),
    ),
    "experiments/harness/results.py": (f"{EX}/harness/test_study.py",),
    "experiments/tasks/next_item.py": (
        *(f"{EX}/tasks/test_next_item.py", f"{EX}/test_nxtpost.py"),
    ),
    "experiments/studies/optimizers/trials.py": (
        *(f"{EX}/studies/optimizers", f"{EX}/test_shampoo_ablation.py"),
    ),
}
SWAPS: dict[type, type] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult},
    **{ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
}
NAMES = {"min": "max", "minimum": "maximum", "any": "all", "argmin": "argmax", "cumsum": "cumprod"}
NAMES |= {new: old for old, new in NAMES.items()}
LEAST_SECONDS = 60.0  # that the tests of a mutant may take


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change: in a file, from an offset of its text to another, `old` becomes `new`."""

    file: str
    line: int
    start: int
    stop: int
    old: str
    new: str

    @property
    def name(self) -> str:
        """What it is known by in a record."""
        return f"{self.file}:{self.line}: {self.old} -> {self.new}"

    def applied(self, text: str) -> str:
        """Change the file's text."""
        data = text.encode()
        return (data[: self.start] + self.new.encode() + data[self.stop :]).decode()


def mutants_of(file: str, text: str) -> list[Mutant]:
    """Find all mutants of a file, in the order of its text."""
    lines = text.encode().splitlines(keepends=True)
    starts = np.cumsum([0, *map(len, lines)]).tolist()

    def mutant(node: ast.expr | ast.stmt, new: str) -> Mutant:
        assert node.end_lineno is not None and node.end_col_offset is not None
        start = starts[node.lineno - 1] + node.col_offset
        stop = starts[node.end_lineno - 1] + node.end_col_offset
        old = text.encode()[start:stop].decode()
        return Mutant(file, node.lineno, start, stop, old, new)

    return [mutant(node, new) for node in code_of(ast.parse(text)) for new in changes_of(node)]


def code_of(tree: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Walk what computes: no annotation, decorator, message of an error, or text of an object."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef) and child.name == "__repr__":
            continue
        if isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
            continue
        if isinstance(tree, ast.arg) or child is getattr(tree, "returns", None):
            continue
        if isinstance(tree, ast.AnnAssign) and child is tree.annotation:
            continue
        if child in getattr(tree, "decorator_list", ()):
            continue
        if isinstance(child, ast.Subscript) and ast.unparse(child.value) in ("Literal", "Callable"):
            continue
        if isinstance(child, ast.expr | ast.stmt):
            yield child
        yield from code_of(child)


def changes_of(node: ast.expr | ast.stmt) -> Iterator[str]:
    """Write what a node may become."""
    match node:
        case ast.Compare(ops=[op, *_]) if type(op) in SWAPS:
            yield _shown(node, ops=[SWAPS[type(op)](), *node.ops[1:]])
        case ast.BoolOp(op=op):
            yield _shown(node, op=SWAPS[type(op)]())
        case ast.BinOp(op=op) if type(op) in SWAPS and not isinstance(
            node.left, ast.Constant | str
        ):
            yield _shown(node, op=SWAPS[type(op)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield f"({ast.unparse(node.operand)})"
        case ast.Constant(value=bool()):
            yield str(not node.value)
        case ast.Constant(value=int()):
            yield str(node.value + 1)
        case ast.Constant(value=float()):
            yield repr(2 * node.value or 1.0)
        case ast.Call(func=ast.Attribute(attr="where"), args=[a, b, c]):
            yield _shown(node, args=[a, c, b])
        case ast.Call(func=ast.Attribute(attr=name)) if name in NAMES:
            yield _shown(node, func=_with(node.func, attr=NAMES[name]))
        case ast.Call(func=ast.Name(id=name)) if name in NAMES:
            yield _shown(node, func=ast.Name(NAMES[name]))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield f"({ast.unparse(ast.IfExp(test, orelse, body))})"
        case ast.AugAssign(op=op) if type(op) in SWAPS:
            yield ast.unparse(_with(node, op=SWAPS[type(op)]()))
        case ast.Expr(value=ast.Call()):
            yield "pass"


def _with(node: ast.AST, **fields: object) -> ast.AST:
    """Copy a node with other fields."""
    own = {name: getattr(node, name) for name in node._fields if hasattr(node, name)}
    return type(node)(**(own | fields))


def _shown(node: ast.AST, **fields: object) -> str:
    return f"({ast.unparse(_with(node, **fields))})"


def drawn(count: int, *, seed: int, root: Path) -> list[Mutant]:
    """Draw mutants of all cores, each at most once."""
    found = [
        mutant
        for file in CORES
        for mutant in mutants_of(file, (root / file).read_text(encoding="utf-8"))
    ]
    order = np.random.default_rng(seed).permutation(len(found))
    return [found[place] for place in order[:count]]


def run_tests(root: Path, tests: Sequence[str], *, seconds: float | None) -> tuple[bool, str]:
    """Run tests in a copy: whether they passed, and the first that did not."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1"}
    try:
        run = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return False, "too slow"
    failed = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return run.returncode == 0, failed[0].partition(" - ")[
        0
    ] if failed else f"exit {run.returncode}"


def try_mutants(out: Path, mutants: Sequence[Mutant], *, root: Path) -> None:
    """Test those that have no line in `out` yet."""
    known = {(record["mutant"], record["at"]) for record in records_of(out)}
    seconds: dict[str, float] = {}
    for number, mutant in enumerate(mutants):
        if (mutant.name, mutant.start) in known:
            continue
        tests = CORES[mutant.file]
        if mutant.file not in seconds:
            start = time.monotonic()
            passed, failed = run_tests(root, tests, seconds=None)
            if not passed:
                raise SystemExit(f"{mutant.file}: expected tests that pass, found {failed}")
            seconds[mutant.file] = time.monotonic() - start
        path = root / mutant.file
        whole = path.read_text(encoding="utf-8")
        start = time.monotonic()
        try:
            path.write_text(mutant.applied(whole), encoding="utf-8")
            limit = max(LEAST_SECONDS, 5 * seconds[mutant.file])
            passed, by = run_tests(root, tests, seconds=limit)
        finally:
            path.write_text(whole, encoding="utf-8")
        record = {
            "mutant": mutant.name,
            "at": mutant.start,  # tells two of a line apart
            "killed": not passed,
            "by": "" if passed else by,
            "seconds": round(time.monotonic() - start, 1),
        }
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        outcome = "survived" if passed else "killed"
        print(f"{number + 1}/{len(mutants)} {outcome}  {mutant.name}", flush=True)


def records_of(out: Path) -> list[dict]:
    """Read what was tested so far."""
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    return [json.loads(line) for line in lines]


def show(out: Path) -> None:
    """Print how many were killed, and who survived."""
    records = records_of(out)
    alive = [record["mutant"] for record in records if not record["killed"]]
    share = 1 - len(alive) / max(len(records), 1)
    print(f"{len(records)} mutants, {len(alive)} survived, {share:.1%} killed")
    print("\n".join(sorted(alive)))


def main() -> None:
    """Draw, test, show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"))
    parser.add_argument("--show", type=Path)
    given = parser.parse_args()
    if given.show:
        return show(given.show)
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True)
        if archive.returncode:
            raise SystemExit(f"{ROOT}: expected a git repository, whose last commit is tested")
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        root = Path(folder)
        try_mutants(given.out, drawn(given.count, seed=given.seed, root=root), root=root)
    show(given.out)


if __name__ == "__main__":
    main()
