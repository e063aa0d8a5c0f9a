"""The manual page is the one that the command line gives now."""

import importlib
import shutil
import subprocess
from typing import Any

import pytest


def test_the_manual_page_is_up_to_date_and_names_every_verb(reference: Any) -> None:
    man = importlib.import_module("stemline_man")
    page = man.page()
    assert page == man.PAGE.read_text(encoding="utf-8"), "run `make man`"
    for verb in reference.verbs():
        assert f".SS stemline {verb.name} ".replace("-", r"\-") in page


@pytest.mark.skipif(not shutil.which("groff"), reason="needs groff")
def test_groff_has_nothing_to_say_of_it(reference: Any) -> None:
    man = importlib.import_module("stemline_man")
    done = subprocess.run(["groff", "-man", "-ww", "-z", man.PAGE], capture_output=True, text=True, check=True)
    assert done.stderr == ""
