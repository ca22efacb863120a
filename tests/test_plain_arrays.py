"""Files of arrays that nobody vouches for, read by both packages alike.

Neither package may import the other, so each has the module; a change of one is one of both.
"""

import inspect
import io
import pickle
import zipfile

import numpy as np
import pytest

import hsnn_jax.plain_arrays
import nxtpost_jax.plain_arrays

MODULES = (hsnn_jax.plain_arrays, nxtpost_jax.plain_arrays)


def test_both_packages_have_the_same_module():
    first, second = map(inspect.getsource, MODULES)
    assert first == second


class Payload:
    def __reduce__(self):
        return pytest.fail, ("a pickle was executed",)


def npy(descr, shape, data):
    stream = io.BytesIO()
    said = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, said)
    return stream.getvalue() + data


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    ("data", "packing", "message"),
    [
        (
            npy("<f4", (10**13,), bytes(8)),
            zipfile.ZIP_STORED,
            r"of shape \[10000000000000\], found 8 bytes",
        ),
        (npy("<f4", (-1,), bytes(8)), zipfile.ZIP_STORED, r"shape \[-1\]"),
        (npy("|O", (1,), pickle.dumps(Payload())), zipfile.ZIP_STORED, "found object"),
        (
            npy("|i1", (1 << 24,), bytes(1 << 24)),
            zipfile.ZIP_DEFLATED,
            "arrays: expected at most .* bytes",
        ),
        (pickle.dumps(Payload()), zipfile.ZIP_STORED, "magic"),
        (b"", zipfile.ZIP_STORED, "EOF"),
    ],
)
def test_no_array_is_larger_than_its_file_or_executed(tmp_path, module, data, packing, message):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", packing) as archive:
        archive.writestr("x.npy", data)
    with pytest.raises(ValueError, match=rf"a\.npz: expected .*{message}"):
        module.read(tmp_path / "a.npz")


@pytest.mark.parametrize("module", MODULES)
def test_plain_arrays_are_read_as_numpy_wrote_them(tmp_path, module):
    arrays = {
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "text": np.array(["a", "bc"]),
        "none": np.zeros((0, 4), np.int32),
        "one": np.array(3),
        "deep/name": np.array([True, False]),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    found = module.read(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        found[name].fill(array.flat[0] if array.size else 0)  # it may be written to
