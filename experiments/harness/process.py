"""What a command asks of its process: huge pages, and programs that earlier runs compiled."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import jax

CACHE_LIMIT = 2 * 2**30  # bytes of compiled programs that are kept from one command to the next


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
        folder = cache_folder() / "compiled"
        prune(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))
    # Small programs too: a smoke run compiles hundreds.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def prune(folder: Path, *, limit: int = CACHE_LIMIT) -> None:
    """Delete the files that were read longest ago until those left have `limit` bytes at most.

    Once per process: jax's own limit looks through the whole folder for each program that it
    writes, which took longer than compiling.
    """
    found = []
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):  # another process prunes too
            told = path.stat()
            found.append((told.st_atime, told.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        with contextlib.suppress(OSError):
            path.unlink()
            total -= size
