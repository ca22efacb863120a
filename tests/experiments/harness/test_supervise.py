"""Which errors say that a peer is gone."""

import jax
import pytest

from experiments.harness.supervise import tells_of_a_lost_peer

GLOO = "UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:5528"


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (jax.errors.JaxRuntimeError(GLOO), True),
        (ValueError(GLOO), True),  # as a gather of host values raises it
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), False),
        (ValueError("RESOURCE_EXHAUSTED: out of memory"), False),
        (ValueError("--peer: expected a Python, found none"), False),
    ],
)
def test_a_lost_peer_is_told_from_other_errors(error, lost):
    assert tells_of_a_lost_peer(error) is lost
