"""Imports all that trials need, once, in the server they are forked from. Nothing here may start CUDA.

All of the project is among it: a sweep goes on with the code it began with, whatever is edited meanwhile.
"""

import importlib
import os
import pkgutil
import sys

# Whether there is a GPU is then asked of NVML, which does not start CUDA: no fork survives that.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

import matplotlib.pyplot  # noqa: E402, F401
import optuna.importance  # noqa: E402, F401
import scipy.stats  # noqa: E402, F401

import cifar_core  # noqa: E402
import experiments  # noqa: E402
import experiments.run  # noqa: E402
from experiments.runs import environment  # noqa: E402

for package in (cifar_core, experiments):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.startswith(__name__):
            importlib.import_module(module.name)

environment.git()  # of the code that is imported now, whatever is checked out when a trial starts

# multiprocessing has each fork run the command line's main module once more, unless it is there already.
sys.modules["__main__"] = experiments.run
