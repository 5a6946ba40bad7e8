"""Builds the wheel: as pyproject.toml says, with conf/ inside the package `experiments`.

In a clone conf/ lies beside the code, where people edit it; installed it must not be one more name among all
packages.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithConf(build_py):
    """Copies the options of conf/ too."""

    def run(self) -> None:
        """Build the packages, then put conf/ into `experiments`; an editable one takes the clone's."""
        super().run()
        if not self.editable_mode:
            shutil.copytree("conf", Path(self.build_lib, "experiments", "conf"), dirs_exist_ok=True)


setup(cmdclass={"build_py": WithConf})
