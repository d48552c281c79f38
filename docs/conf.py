"""The documentation site: `sphinx-build -W docs <folder>`, with what `pip install -e '.[docs]'` installs."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]  # experiments/ is no installed package

import jaxdistill  # noqa: E402

project = "jaxdistill"
author = project_copyright = "The jaxdistill authors"
version = release = jaxdistill.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
extensions += ["catalogue", "docstrings", "native_math"]  # docs/_ext
exclude_patterns = ["_ext", "_build"]
templates_path: list[str] = []

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
nb_execution_mode = "off"  # notebooks are stored with their outputs
nb_output_stderr = "remove"  # bars of progress
nb_render_image_options = {"alt": "The figure that the cell above draws"}

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_attr_annotations = False  # docstrings say the shapes
napoleon_use_rtype = False
napoleon_use_param = False  # several names may share a line
python_maximum_signature_line_length = 88
add_module_names = False
default_role = "py:obj"  # `name` in a docstring: a link where the name is known

# References to the package must resolve. Those to NumPy, JAX and others stay words, so that a build needs no network.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!jaxdistill\.).*"),
    (r"py:class", r"jaxdistill\..*\._\w+"),  # a type variable
]

html_theme = "furo"
html_title = f"jaxdistill {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "native"
