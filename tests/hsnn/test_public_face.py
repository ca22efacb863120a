"""What the package shows: few names at the top, and every module under its own name."""

import importlib
import inspect
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


# A scorer is called as scorer(params, users, items), a Flax module as its inputs are.
THREE = {"dot", "mol", "__call__"}


def public_functions():
    """All functions and methods without an underscore, and constructors that are written out."""
    for name, module in modules().items():
        for owner in [module, *vars(module).values()]:
            if owner is not module and not (inspect.isclass(owner) and owner.__module__ == name):
                continue
            for member, value in vars(owner).items():
                value = getattr(value, "__func__", getattr(value, "__wrapped__", value))
                if not inspect.isfunction(value) or value.__module__ != name:
                    continue
                if not member.startswith("_") or member == "__call__":
                    yield f"{name}.{getattr(owner, '__name__', '')}.{member}", member, value


def test_functions_take_two_arguments_by_position_and_say_what_all_are():
    found = 0
    for path, member, function in public_functions():
        signature = inspect.signature(function)
        given = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
        positional = [p for p in given if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert len(positional) <= (4 if member in THREE else 2), path
        missing = [p.name for p in given if p.annotation is p.empty]
        assert not missing, (path, missing)
        assert signature.return_annotation is not signature.empty, path
        found += 1
    assert found > 150
