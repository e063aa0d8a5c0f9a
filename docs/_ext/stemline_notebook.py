"""Notebooks as pages: their cells and the outputs that are stored in them. A build runs none of them.

`tests/e2e/test_road.py` runs them, and `tests/docs/notebook.py` writes their outputs.
"""

import json

from sphinx.application import Sphinx


def to_markdown(text: str) -> str:
    """A notebook (nbformat 4) as Markdown: code and text outputs in blocks."""
    parts: list[str] = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
        for output in cell.get("outputs", ()):
            printed = output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
            parts.append(f"```text\n{''.join(printed).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _on_source_read(app: Sphinx, docname: str, source: list[str]) -> None:
    if str(app.env.doc2path(docname)).endswith(".ipynb"):
        source[0] = to_markdown(source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _on_source_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
