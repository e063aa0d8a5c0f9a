"""What goes into sdist and wheel besides packages: the commit that they were built from, and the lock.

An installed wheel has no checkout to ask, and lies in the middle of somebody else's.
"""

import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
LOCK = "requirements.lock"
sys.path.insert(0, str(HERE))
from pipelines.runtime.step_keys import STAMP, code_commit  # noqa: E402
from stemline.name_clashes import name_clash  # noqa: E402


def _stamp(folder: Path) -> None:
    (folder / STAMP).parent.mkdir(parents=True, exist_ok=True)
    (folder / STAMP).write_text(f"{code_commit()}\n", encoding="utf-8")


class BuildWithStamp(build_py):
    def run(self) -> None:
        # Also in the environment that pip builds in, Python names the folder that pip will install into.
        if clash := name_clash([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]):
            sys.exit(clash)
        super().run()
        if not self.editable_mode:  # which builds nothing: the checkout is asked
            _stamp(Path(self.build_lib))
            shutil.copyfile(HERE / LOCK, Path(self.build_lib, "infra", LOCK))


class SourcesWithStamp(sdist):
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        _stamp(Path(base_dir))
        shutil.copyfile(HERE / LOCK, Path(base_dir, LOCK))


setup(cmdclass={"build_py": BuildWithStamp, "sdist": SourcesWithStamp})
