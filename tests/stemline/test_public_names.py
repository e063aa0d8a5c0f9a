"""What `import stemline` promises: every public name has types, a docstring and an example, and the import is cheap."""

import ast
import inspect
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import stemline
from tests.architecture.test_rooms import HEAVY

ERRORS = {"InputError"}  # which has a place in the API pages already, and nothing to call


def members() -> Iterator[tuple[str, Any]]:
    """Every function, and every public method of a class, by its dotted name."""
    for name in stemline.__all__:
        value = getattr(stemline, name)
        if not inspect.isclass(value):
            yield name, value
            continue
        for member, function in vars(value).items():
            function = function.fget if isinstance(function, property) else getattr(function, "func", function)
            if inspect.isfunction(function) and (not member.startswith("_") or member in ("__getitem__", "__len__")):
                yield f"{name}.{member}", function


def test_the_list_of_names_is_sorted_and_each_is_found() -> None:
    assert stemline.__all__ == sorted(stemline.__all__)
    assert {name for name in dir(stemline) if not name.startswith("_")} == set(stemline.__all__)
    with pytest.raises(AttributeError, match=r"no attribute 'seperate'; it has .*load_model"):
        _ = stemline.seperate
    assert stemline.__version__.count(".") == 2


def test_every_function_and_method_has_types_and_says_what_it_gives() -> None:
    untyped, silent = [], []
    for name, function in members():
        signature = inspect.signature(function)
        declared = [one.annotation for one in signature.parameters.values() if one.name != "self"]
        if inspect.Signature.empty in (*declared, signature.return_annotation):
            untyped.append(name)
        if not function.__doc__ and not name.endswith("__len__"):
            silent.append(name)
    assert (untyped, silent) == ([], [])
    assert len(list(members())) > 20


@pytest.mark.parametrize("name", sorted(set(stemline.__all__) - ERRORS))
def test_every_name_has_an_example_that_names_what_is_there(name: str) -> None:
    value = getattr(stemline, name)
    _, mark, example = (inspect.getdoc(value) or "").partition("Example:\n\n")
    assert mark, f"{name} has no example"
    block = "\n".join(line for line in example.split("\nRaises:")[0].splitlines() if not line or line[0] == " ")
    tree = ast.parse(textwrap.dedent(block))
    assert tree.body
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "stemline":
            function = getattr(stemline, node.attr)
            calls = [call for call in ast.walk(tree) if isinstance(call, ast.Call) and call.func is node]
            for call in calls:
                named = {keyword.arg for keyword in call.keywords}
                assert named <= set(inspect.signature(function).parameters), (name, node.attr)


def test_the_import_loads_nothing_heavy(repository: Path) -> None:
    program = f"import stemline, sys; print(*[name for name in {(*HEAVY, 'numpy')!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
