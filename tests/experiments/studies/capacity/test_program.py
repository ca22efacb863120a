"""Products and collectives of a program's text: loops, branches, dots, convolutions."""

import jax
import jax.numpy as jnp
import pytest

from experiments.studies.capacity.program import costs_of

TEXT = """
%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %x = f32[8,4]{1,0} get-tuple-element(%p), index=1
  %w = f32[4,4]{1,0} constant({...})
  %d = f32[8,4]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %g = f32[8,4]{1,0} all-reduce(%d), to_apply=%add
}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(%a, %b)
}

ENTRY %main (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %known = (s32[], f32[8,4]{1,0}) while(%p), condition=%c, body=%body, ROUNDS
  %unknown = (s32[], f32[8,4]{1,0}) while(%p), condition=%c, body=%body
  %h = f32[16,4]{1,0} all-gather-start(%p), dimensions={0}
  ROOT %r = f32[8,4]{1,0} fusion(%p), kind=kLoop, calls=%body
}
""".replace("ROUNDS", 'backend_config={"known_trip_count":{"n":"3"}}')


def test_loops_count_as_often_as_they_run_and_unknown_ones_not():
    costs = costs_of(TEXT)
    assert costs.flops == 4 * 2 * 8 * 4 * 4
    assert costs.counts == {"all-reduce": 4, "all-gather": 1}
    assert costs.bytes == {"all-reduce": 4 * 128, "all-gather": 256}


def test_a_text_without_entry_is_refused():
    with pytest.raises(ValueError, match="text: expected a compiled program with an ENTRY"):
        costs_of("%body (p: f32[]) -> f32[] {\n}")


def test_a_scan_and_a_strided_convolution_of_a_real_program():
    def scanned(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, length=5)[0]

    x, w = jnp.zeros((16, 8)), jnp.zeros((8, 8))
    text = jax.jit(scanned).lower(x, w).compile().as_text()
    assert costs_of(text).flops == 5 * 2 * 16 * 8 * 8

    def convolved(x, k):
        return jax.lax.conv_general_dilated(
            x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x, k = jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 4, 6))
    text = jax.jit(convolved).lower(x, k).compile().as_text()
    assert costs_of(text).flops == 2 * (2 * 4 * 4 * 6) * 3 * 3 * 4
