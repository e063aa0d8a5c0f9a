"""Runs the notebook of the documentation in this process, as Jupyter would: a cell shows its last expression.

`python -m tests.docs.notebook STORE` runs it on a store and writes its outputs.
"""

import ast
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATH = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "python-api.ipynb"
STORE = "stemline-store"  # what the cells name


def cells() -> list[dict[str, Any]]:
    """The code cells of the notebook."""
    return [cell for cell in json.loads(PATH.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def stored(cell: dict[str, Any]) -> str:
    """What a cell printed and gave when its outputs were written."""
    return "".join("".join(one.get("text") or one["data"]["text/plain"]) for one in cell["outputs"])


def run(store: str) -> Iterator[str]:
    """What each code cell prints and gives with this store, in one namespace."""
    namespace: dict[str, Any] = {}
    for cell in cells():
        tree = ast.parse("".join(cell["source"]).replace(STORE, store))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(tree, "cell", "exec"), namespace)
            if last is not None:
                value = eval(compile(ast.Expression(last.value), "cell", "eval"), namespace)
                out.write("" if value is None else repr(value))
        yield out.getvalue()


def write(store: str) -> None:
    """Run it, and keep what it gives in the file."""
    results = iter(list(run(store)))
    notebook = json.loads(PATH.read_text(encoding="utf-8"))
    number = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number, text = number + 1, next(results)
            cell["execution_count"] = number
            given = {"output_type": "execute_result", "execution_count": number, "metadata": {}}
            cell["outputs"] = [{**given, "data": {"text/plain": text.splitlines(keepends=True)}}] if text else []
    PATH.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(sys.argv[1])
