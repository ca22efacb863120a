"""What optax.inject_hyperparams may turn into arrays: the numbers that no shape depends on.

inject_hyperparams binds the arguments to the factory's signature, makes every int and float an
array of its state, and takes every function for a schedule. A block size would become a traced
number, a root solver a function of the step. So the signature that it reads hands it everything
else in a box, which it passes on untouched and the factory opens.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Those that may change from step to step.
HYPERPARAMETERS = ("b1", "b2", "b3", "eps", "momentum", "weight_decay")
DYNAMIC = ("learning_rate", *HYPERPARAMETERS)


class _Static(NamedTuple):
    """Neither a number nor a function."""

    value: Any


def _is_static(name: str, value: Any) -> bool:
    # Without momentum there is no buffer: whether it is 0 decides the state.
    off = name == "momentum" and isinstance(value, int | float) and value == 0
    return name not in DYNAMIC or off


class _Signature(inspect.Signature):
    """A signature whose bound arguments are boxed unless they are hyperparameters."""

    def bind(self, /, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        bound = super().bind(*args, **kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            if _is_static(name, value) and not isinstance(value, _Static):
                bound.arguments[name] = _Static(value)
        return bound


def injectable(factory: Callable[P, T]) -> Callable[P, T]:
    """Make `optax.inject_hyperparams(factory)` work without `static_args`."""

    make: Callable[..., T] = factory

    @functools.wraps(factory)
    def opened(*args: P.args, **kwargs: P.kwargs) -> T:
        return make(*map(_open, args), **{k: _open(v) for k, v in kwargs.items()})

    own = inspect.signature(factory)
    parameters = list(own.parameters.values())
    signature = _Signature(parameters, return_annotation=own.return_annotation)
    vars(opened)["__signature__"] = signature  # where inspect.signature looks first
    return opened


def _open(value: Any) -> Any:
    return value.value if isinstance(value, _Static) else value
