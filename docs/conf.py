"""Settings of Sphinx."""

project = "palaestra"
author = "The palaestra developers"
release = "0.1.0"

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "fieldlist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "palaestra"
html_theme_options = {"navigation_with_keys": True}
