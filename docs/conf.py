"""How Sphinx builds the documentation: `make docs`. What is generated from the code is in `_ext/`."""

import gc
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

# Pages are trees of small objects that stay: to look for garbage as often as usual takes a sixth longer.
gc.set_threshold(100_000, 50, 50)

project = "stemline"
version = release = installed_version("stemline")
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "stemline_reference", "stemline_api", "stemline_notebook"]
exclude_patterns = ["_ext"]
source_suffix = {".md": "markdown", ".ipynb": "markdown"}
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
highlight_language = "text"  # blocks without a language are commands and what they print

# Docstrings are plain text with `code` in single backticks; stemline_api makes reStructuredText of them.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_use_type_comments = False  # there are none, and to look for them means to parse every function
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False
suppress_warnings = ["ref.python"]  # types are shown by their last name, and some modules share one
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = "stemline"
html_static_path = ["_static"]
html_css_files = ["stemline.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {
    "logo": {"text": "stemline"},
    "navbar_align": "left",
    "navigation_with_keys": False,
    "show_version_warning_banner": False,
    "footer_start": [],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
