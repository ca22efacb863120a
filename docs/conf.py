"""Sphinx's settings, of `make docs`."""

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS), str(ROOT)]
# The notebook's kernel is another process: it imports the packages beside these pages, too.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import api_pages  # noqa: E402
import docstrings  # noqa: E402

import shampoo_jax  # noqa: E402

project = "shampoo-nxtpost-hsnn"
copyright = "the authors, Apache-2.0"
version = release = shampoo_jax.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_nb"]
exclude_patterns = ["_build", "jupyter_execute"]
suppress_warnings = [
    "myst.header",  # a run's report goes from its title to its tables' headings
    "config.cache",  # the hook below is a function
]

html_theme = "sphinx_book_theme"
html_title = "Shampoo, NxtPost, HSNN in JAX"
html_theme_options = {"show_navbar_depth": 1, "home_page_in_toc": True}

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "auto"
nb_execution_timeout = 300
nb_execution_raise_on_error = True

default_role = "py:obj"  # a docstring's `name` is code, and a link where it is known
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # flax's own stand at every model's methods else
autodoc_typehints = "none"  # shapes and dtypes stand in the docstrings
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False


def setup(app):
    """Write the pages of the rooms; read docstrings as the packages write them."""
    api_pages.write(DOCS / "api" / "generated")
    app.connect("autodoc-process-docstring", docstrings.convert, priority=100)  # before napoleon
    app.connect("autodoc-skip-member", docstrings.skip)
