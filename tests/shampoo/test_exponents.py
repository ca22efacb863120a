"""Which sides have factors, and their powers."""

from shampoo_jax import default_exponents, paper_exponents


def test_every_side_with_a_factor_has_one_half_and_the_paper_shares_it():
    cases = {  # merged shape: how many sides have a factor
        (64, 32): (1, 1),
        (3, 16, 16): (1, 1, 1),
        (4096, 16): (0, 1),  # the long side's factor would be many times the block
        (20_000, 64): (0, 1),
    }
    for shape, kept in cases.items():
        assert default_exponents(shape) == tuple(k / 2 for k in kept)
        assert paper_exponents(shape) == tuple(k / (2 * sum(kept)) for k in kept)
    assert default_exponents((7,)) is None and paper_exponents(()) is None
    assert paper_exponents((4096, 16), factor_limit=None) == (0.25, 0.25)
