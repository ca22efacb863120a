"""Task frontier: cost against recall of HSNN beside exact search, IVF, HNSW and re-ranking.

One data set of ids, towers by the graph's spectrum, one protocol: users drawn by seed, all items
that a user has not met ranked, recall of the exact top 20 of the same scorer and of the held-out
items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.harness.report import Table
from experiments.harness.run_folder import Run
from experiments.harness.study import Outcome
from experiments.retrieval.faiss_peers import FaissHNSW, FaissIVF, load_faiss
from experiments.retrieval.nodes import learned_nodes
from experiments.retrieval.residual_monn import (
    MoNNTraining,
    Questions,
    as_model,
    residual,
    train_residual,
)
from experiments.retrieval.searchers import (
    HSNN,
    Model,
    Requests,
    Reranked,
    dot_model,
    measure_all,
    truth_of,
)
from experiments.studies.equal_cost import equal_table, gain_over
from experiments.studies.frontier_points import Curve, Frontier
from experiments.tasks.graph_towers import K, SpectralTowers, spectral_towers, validation
from experiments.tasks.neighbours import companion_lists, fold_of
from experiments.tasks.pairs import PairProblem
from hsnn_jax.cost_curves import Measured, Searcher, paired_difference

SHARES = (0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2)  # of the items, what searches may score


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrontierConfig:
    """Who is asked, and the indexes."""

    users: int = 2000
    """users, drawn by seed, that dot products and the smallest MoNN answer"""
    large_users: int = 500
    """of those, how many the other MoNNs answer"""
    width: int = 384
    """of the towers' vectors"""
    temperature: float = 0.4
    """of the towers' inner product, from which a MoNN's training starts"""
    nodes: int = 1024
    """nodes of HSNN's index, and lists of IVF"""
    slack: float = 3.0
    """slots of a list over the mean number of items of a node"""
    index_steps: int = 1000
    """steps of LTI"""
    index_rate: float = 5e-4
    """learning rate of LTI"""
    pairs: int = 200_000
    """training pairs that LTI draws from"""


def requests_of(
    problem: PairProblem, user_vectors: np.ndarray, *, rows: np.ndarray
) -> tuple[Requests, np.ndarray]:
    """Return the requests of test users, what they know left out, and their test items."""
    known = problem.known.padded(rows)
    return Requests(user_vectors[rows], known, known), problem.test.padded(rows)


class Lists(NamedTuple):
    """Companions of items, see `companion_lists`: by training pairs, and by validation's too."""

    train: np.ndarray
    known: np.ndarray


def lists_of(problem: PairProblem) -> Lists:
    """List the companions."""
    sizes = {"num_users": problem.num_users, "num_items": problem.num_items}
    train = companion_lists(*problem.train, **sizes)
    return Lists(train, companion_lists(*problem.known, **sizes, folds=0))


def train_monn(
    run: Run,
    problem: PairProblem,
    *,
    towers: SpectralTowers,
    lists: Lists,
    config: MoNNTraining,
    size: str,
    temperature: float,
    seed: int,
    mesh: Mesh,
) -> Model:
    """Train a MoNN over the towers and lists of companions.

    Training and selection are on vectors and lists that know nothing of validation, and in
    training what is known of the user leaves out the item; the model that is returned scores the
    vectors and lists that serve.
    """
    items = towers.items(towers.train)
    scorer = residual(size, items.shape[1], overarch=config.overarch, cross=True)
    longest = int(np.bincount(problem.train.users).max())

    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        batch = problem.train.draw(rng, size=config.batch_size)
        met = problem.train.padded(batch["users"], longest)
        return {
            "users": towers.users_without(**batch),
            "items": batch["items"],
            "met": np.where(met == batch["items"][:, None], -1, met),
            "fold": fold_of(batch["users"], True),
        }

    rows = problem.users_with(problem.validation, most=1000, seed=seed)
    known = problem.train.padded(rows)
    requests = Requests(towers.users(towers.train)[rows], known, known)
    result = train_residual(
        run,
        scorer,
        item_vectors=items,
        draw=draw,
        config=config,
        tx=optax.adam(config.rate),
        questions=Questions(requests, problem.validation.padded(rows), K),
        temperature=temperature,
        stage=f"monn-{size}-{seed}",
        seed=seed,
        mesh=mesh,
        lists=lists.train,
        stream=1,
    )
    return as_model(
        f"MoNN {size}",
        scorer,
        params=result.params,
        item_vectors=towers.items(towers.known),
        lists=lists.known,
    )


def measure_model(
    model: Model,
    searchers: Iterable[Searcher],
    *,
    requests: Requests,
    truth: np.ndarray,
    budgets: Sequence[int],
) -> tuple[Measured, list[Curve]]:
    """Measure exact search by a model and every searcher that approximates it."""
    k = min(K, jax.tree.leaves(model.items)[0].shape[0])
    exact, points = measure_all(
        model, searchers, requests=requests, k=k, budgets=budgets, truth=truth
    )
    # Budgets that afford the same lists are one point.
    curves = [
        Curve(name, model.name, list({(p.items_scored, p.flops): p for p in own}.values()))
        for name, own in points.items()
    ]
    return exact, curves


def run_frontier(
    run: Run,
    problem: PairProblem,
    *,
    monn: MoNNTraining,
    config: FrontierConfig,
    seed: int,
    faiss: bool,
    mesh: Mesh,
    before_test: Callable[[], None],
) -> Frontier:
    """Train, learn the indexes, and only then look at the test users."""
    if faiss:
        load_faiss()  # its absence shows before anything is trained
    towers = spectral_towers(problem, config.width, seed=seed)
    asked, measure_recall = validation(problem, seed=seed)
    plain = measure_recall(towers.users(towers.train)[asked], towers.items(towers.train))
    users, items = towers.users(towers.known), towers.items(towers.known)
    lists, models = lists_of(problem), [dot_model(items)]
    models += [
        train_monn(
            run,
            problem,
            towers=towers,
            lists=lists,
            config=monn,
            size=size,
            temperature=config.temperature,
            seed=seed,
            mesh=mesh,
        )
        for size in monn.sizes
    ]
    pairs = np.random.default_rng([seed, 2]).permutation(len(problem.train.users))[: config.pairs]
    nodes = learned_nodes(
        users[problem.train.users[pairs]],
        items,
        positives=problem.train.items[pairs],
        nodes=config.nodes,
        steps=config.index_steps,
        rate=config.index_rate,
        seed=seed,
    )
    before_test()
    rows = problem.users_with(problem.test, most=config.users, seed=seed)
    requests, truth = requests_of(problem, users, rows=rows)
    budgets = sorted({max(1, round(share * problem.num_items)) for share in SHARES})
    exacts, curves = {}, []
    # A random order, so that the first users are as good a sample as all.
    order = np.random.default_rng([seed, 9]).permutation(len(rows))
    requests = requests.rows(order)
    truth = truth[order]
    for number, model in enumerate(models):
        count = len(rows) if number < 2 else min(config.large_users, len(rows))
        exact, found = measure_model(
            model,
            searchers_for(
                model, models[0], items=items, nodes=nodes, config=config, seed=seed, faiss=faiss
            ),
            requests=requests.rows(slice(count)),
            truth=truth[:count],
            budgets=budgets,
        )
        exacts[model.name] = exact
        curves += found
    return Frontier(exacts, curves, {f"validation recall@{K}": plain})


def searchers_for(
    model: Model,
    plain: Model,
    *,
    items: np.ndarray,
    nodes: Mapping[str, np.ndarray],
    config: FrontierConfig,
    seed: int,
    faiss: bool,
) -> list[Searcher]:
    """List what searches with a model: HSNN by both kinds of nodes, and the baselines.

    HSNN's nodes are scored by the model, and by `plain`, the inner product; with both as well
    what IVF and HSNN find by the inner product is re-ranked by the model.
    """

    def hsnn(of: Model, name: str, router: Model | None = None) -> HSNN:
        title = f"{of.name}, HSNN {name}" + (", dot routes" if router else "")
        return HSNN(title, of, items, nodes[name], slack=config.slack, router=router)

    ivf = FaissIVF("dot, IVF", items, len(next(iter(nodes.values()))), seed=seed)
    if model is plain:
        peers = [ivf, FaissHNSW("dot, HNSW", items)] if faiss else []
        return [*peers, *(hsnn(plain, name) for name in nodes)]
    candidates: dict[str, FaissIVF | HSNN] = {"IVF": ivf} if faiss else {}
    candidates |= {f"HSNN {name}": hsnn(plain, name) for name in nodes}
    return [
        *(Reranked(f"{model.name}, {name} re-ranked", c, model) for name, c in candidates.items()),
        *(hsnn(model, name, router) for name in nodes for router in (None, plain)),
    ]


def frontier_outcome(problem: PairProblem, measured: Frontier, *, seed: int) -> Outcome:
    """Lay out what was measured."""
    exacts, curves = measured.exacts, measured.curves
    plain = exacts["dot"]
    metrics, rows = dict(measured.figures), []

    def truth_cells(point: Measured) -> list:
        value, error = paired_difference(truth_of(point), 0.0, seed=seed)
        return [value, error]

    for name, exact in exacts.items():
        value, error = truth_cells(exact)
        gain, gain_error = gain_over(exact, plain, seed=seed)
        metrics |= {f"{name}/recall@{K}": value, f"{name}/se": error}
        metrics |= {
            f"{name}/gain": gain,
            f"{name}/gain_se": gain_error,
            f"{name}/flops": exact.flops,
        }
        cells = [
            1.0,
            exact.flops,
            1.0,
            value,
            error,
            exact.queries_per_second,
            len(truth_of(exact)),
        ]
        rows.append([f"{name}, exact", *cells])
    lines = []
    for curve in curves:
        for point in curve.points:
            share = point.items_scored / problem.num_items
            recall = float(np.nanmean(point.recall))
            key = f"{curve.name}/{point.budget}"
            metrics |= {f"{key}/share": share, f"{key}/recall": recall, f"{key}/flops": point.flops}
            value, error = truth_cells(point)
            metrics |= {f"{key}/recall@{K}": value}
            metrics |= {f"{key}/queries_per_second": point.queries_per_second}
            speed = [point.queries_per_second, len(point.recall)]
            lines.append([curve.name, share, point.flops, recall, value, error, *speed])
    columns = ("", "share scored", "FLOPs", "recall of exact 20", f"recall@{K}", "±")
    columns += ("queries/s", "users")
    equal, at = equal_table(problem, curves, exacts=exacts, seed=seed)
    tables = [
        equal,
        Table(title="Every point", columns=columns, baselines=rows, rows=lines),
    ]
    return Outcome(
        title=f"Cost against recall on {problem.protocol['data']}",
        intro="Towers in closed form, the leading singular vectors of the graph (GF-CF's ideal "
        "low-pass filter); "
        "recall of the exact top 20 is that of the same scorer.",
        protocol=problem.protocol | {"cut": K},
        metrics=metrics | at,
        baselines={
            f"{name}/recall@{K}": float(np.nanmean(truth_of(e))) for name, e in exacts.items()
        },
        tables=tables,
    )
