"""What a kept file says about where its figures come from, without naming a path or a machine."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import shampoo_jax

# Where to read, write and compute, not what.
NOT_CONFIG = (
    *("data", "out", "resume", "keep", "compilation_cache", "devices", "layout"),
    *("coordinator", "num_processes", "process_id", "distributed"),
)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class DataName:
    """What a kept file may say about data: a name such as `<ml-1m>` and a sha256."""

    name: str
    sha256: str


def config_dict(options: Any, *, data: DataName | None = None) -> dict[str, Any]:
    """Turn a dataclass of options into plain JSON, without the paths it reads and writes."""
    fields = dataclasses.asdict(options)
    config = {name: _plain(value) for name, value in fields.items() if name not in NOT_CONFIG}
    return {"data": dataclasses.asdict(data) if data else None, **config}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return f"<{value.name}>" if isinstance(value, Path) else value


def config_hash(config: Mapping[str, Any]) -> str:
    """Hash a config to 16 hex digits that do not depend on the order of its fields."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def first_difference(saved: Any, found: Any, *, name: str = "") -> str | None:
    """Describe the first field in which two configs differ, or return None."""
    if isinstance(saved, Mapping) and isinstance(found, Mapping):
        for key in dict.fromkeys((*saved, *found)):
            path = f"{name}.{key}" if name else str(key)
            difference = first_difference(saved.get(key), found.get(key), name=path)
            if difference:
                return difference
        return None
    return None if saved == found else f"{name} is {saved!r} there and {found!r} here"


def command_line(experiment: str, arguments: Sequence[str], *, data: DataName | None) -> str:
    """Write the command that repeats a run, its data named and hashed instead of located."""
    named = _name_data_argument(arguments, data)
    words = ["python", "-m", *f"experiments.{experiment}".split(), *named]
    quoted = " ".join(word if word == (data and data.name) else shlex.quote(word) for word in words)
    return f"{quoted}  # {data.name} sha256 {data.sha256}" if data else quoted


def _name_data_argument(arguments: Sequence[str], data: DataName | None) -> list[str]:
    words = []
    for previous, word in zip(("", *arguments), arguments, strict=False):
        if data and previous == "--data":
            words.append(data.name)
        elif data and word.startswith("--data="):
            words += ["--data", data.name]
        else:
            words.append(word)
    return words


def describe_devices(devices: Sequence[Any]) -> dict[str, Any]:
    """Name the hardware of a run, its jax devices, without naming the machine."""
    first = devices[0]
    kind = {"platform": first.platform, "kind": first.device_kind, "count": len(devices)}
    return kind | {"cpu_cores": os.cpu_count(), "architecture": platform.machine()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the figures."""
    found = {"python": platform.python_version(), "shampoo_jax": shampoo_jax.__version__}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}
