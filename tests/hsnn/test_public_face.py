"""What the package shows: few names at the top, and every module under its own name."""

import importlib
import pkgutil
from types import ModuleType

import hsnn_jax


def modules():
    """All modules of the package, by their dotted names."""
    found = pkgutil.walk_packages(hsnn_jax.__path__, "hsnn_jax.")
    return {name: importlib.import_module(name) for name in ["hsnn_jax", *(m.name for m in found)]}


def test_no_exported_name_hides_a_module():
    found = modules()
    assert len(found) > 30
    for name, package in found.items():
        if not hasattr(package, "__path__"):
            continue
        below = {module.name for module in pkgutil.iter_modules(package.__path__)}
        assert not below & set(getattr(package, "__all__", ())), name
        for child in below:
            assert isinstance(getattr(package, child), ModuleType), f"{name}.{child}"


def test_what_is_exported_is_there_and_little():
    assert len(hsnn_jax.__all__) <= 24
    for name in hsnn_jax.__all__:
        assert not isinstance(getattr(hsnn_jax, name), ModuleType), name
