"""What a command asks of its process: huge pages, and programs that earlier runs compiled."""

from __future__ import annotations

import os
from pathlib import Path

import jax

CACHE_LIMIT = 2 * 2**30  # bytes of compiled programs that are kept; the least used ones go


def cache_folder() -> Path:
    """Return the folder of the user's caches, `$XDG_CACHE_HOME` or `~/.cache`, for this project."""
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "shampoo-nxtpost-hsnn"


def use_compilation_cache(on: bool) -> None:
    """Read programs that were compiled before from the user's cache folder, and write new ones.

    A folder that JAX_COMPILATION_CACHE_DIR names is used instead. Must run before anything is
    compiled.
    """
    jax.config.update("jax_enable_compilation_cache", on)
    if not on:
        return
    named = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]  # run time
    if named is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_compilation_cache_max_size", CACHE_LIMIT)
    # Small programs too: a smoke run compiles hundreds.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
