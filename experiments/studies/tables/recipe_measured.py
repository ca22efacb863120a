"""What a recipe finds and predicts on a part, through its nodes and by brute force."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.retrieval.rivals import Asked
from experiments.studies.rated_scorer import K, Scored
from experiments.studies.scorers import relative_losses
from experiments.studies.tables.brute import Part, has_negatives, rated_rows
from experiments.studies.tables.recipe_loss import NEXT
from experiments.studies.tables.recipe_training import Problem
from experiments.studies.tables.recipes import Recipe
from experiments.studies.tables.served import BATCH, asked_of
from experiments.tasks.rated_events import parts_of
from hsnn_jax.cost_curves import recall_by_user
from hsnn_jax.descent.search import search_levels
from hsnn_jax.lists.index import take_rows
from hsnn_jax.monn.ensemble import level_logit
from hsnn_jax.monn.network import logits
from hsnn_jax.nodes.joint import encode_levels, request_levels


def measure_recipe(
    problem: Problem, recipe: Recipe, params: Any, *, part: Part
) -> dict[str, np.ndarray]:
    """Search at one budget of items, and over all of them; predict rated events.

    Returns:
      "hits", "hits of all items": float [users]; "losses": float [events], see `relative_losses`,
      empty where no negatives were observed; "items_scored": mean a user; "used": nodes that list
      an item.
    """
    examples, config = problem.examples, problem.config
    known = problem.listing(recipe, params)
    features = encode_levels(
        problem.models, params["models"], indexes=known.indexes, items=problem.items
    )
    asked, _ = asked_of(examples, part, models=())
    capacity = known.indexes[-1].lists.shape[1]
    budgets = max(config.budget(examples.num_items), capacity), examples.num_items
    found = [
        [_search(problem, params, known.indexes, features, one, budget=budget) for one in asked]
        for budget in budgets
    ]
    hits, of_all = (np.concatenate([own for own, _ in parts]) for parts in found)
    scored = np.concatenate([own for _, own in found[0]])
    losses = np.zeros(0)
    if has_negatives(examples):
        losses = _losses(problem, params, known.representatives, part)
    used = np.sum(np.asarray(known.indexes[-1].counts) > 0)
    measured = {"hits": hits, "hits of all items": of_all, "losses": losses}
    return measured | {"items_scored": scored.mean(), "used": used}


def _search(problem, params, indexes, features, asked: Asked, *, budget):
    """Return (hits, items scored), float [b], of one part of those who ask."""
    examples, requests = problem.examples, asked.requests
    users = problem.sides(requests.users[BATCH])
    levels = request_levels(
        problem.models, params["models"], features=features, users=users, task=NEXT
    )
    found = search_levels(
        levels,
        indexes,
        k=min(K, examples.num_items),
        budgets=(budget,),
        ensemble=params.get("ensemble"),
        exclude=jnp.asarray(requests.exclude),
    )
    own = len(asked.wanted)
    hits = recall_by_user(np.asarray(found.ids)[:own], asked.wanted[:, None])
    return hits, np.asarray(found.items_scored)[:own]


def _losses(problem: Problem, params: Any, representatives: tuple, part: Part) -> np.ndarray:
    """Return the relative log loss of rated events, of the last level."""
    examples = problem.examples
    rows = rated_rows(examples, part, events=problem.config.events)
    found = []
    for own in parts_of(rows):
        users, ids = problem.sides(examples.histories(own)), jnp.asarray(examples.items[own])
        items = tuple(take_rows(problem.items, of[ids]) for of in representatives)
        items = (*items, take_rows(problem.items, ids))
        found.append(np.asarray(_like(params, users, items, models=problem.models)))
    scored = Scored(np.concatenate(found)[: len(rows)], examples.labels[rows], np.zeros(0))
    return relative_losses(scored)


@functools.partial(jax.jit, static_argnames="models")
def _like(params, users, items, *, models):
    outputs = [
        logits(
            model,
            own,
            user_features=users[0],
            item_features=of[0],
            counts=users[1],
            attributes=of[1],
        )[:, model.tasks.index("like")]
        for model, own, of in zip(models, params["models"], items, strict=True)
    ]
    stacked = jnp.stack(outputs, axis=-1)
    return level_logit(params["ensemble"], stacked) if "ensemble" in params else stacked[:, -1]
