"""Most tests of the index build it without the calibration of its estimates of recall."""

import pytest

from hsnn_jax.serving import calibration

# The tests of what a calibration is for; it takes up to a second per build.
CALIBRATED = {
    "test_retriever_recall",
    "test_calibration",
    "test_simulation",
    "test_spreads",
    "test_artefact",
    "test_retriever_facade",
    "test_retriever_threads",
}


@pytest.fixture(scope="module", autouse=True)
def calibrated_where_it_is_tested(request):
    """Let other files build indexes that are too small for a calibration."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.stem not in CALIBRATED:
            patch.setattr(calibration, "_LEAST_ITEMS", 10**9)
        yield
