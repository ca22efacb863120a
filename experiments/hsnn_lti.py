"""LTI as the index experiments set it up."""

from __future__ import annotations

from hsnn_jax.lti import LTIConfig


def lti_config(*, nodes: int, steps: int, **changes) -> LTIConfig:
    """Configure LTI with a warm-up over the first tenth of the steps; `changes` go over it."""
    fields = {"num_nodes": nodes, "total_steps": steps, "warmup_steps": steps // 10}
    return LTIConfig(**(fields | changes))
