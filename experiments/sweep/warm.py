"""Imports all that trials need, once, in the server they are forked from. Nothing here may start CUDA.

All of the project is among it: a sweep goes on with the code it began with, whatever is edited meanwhile.
"""

import importlib
import pkgutil
import sys

import matplotlib.pyplot  # noqa: F401
import optuna.importance  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.datasets  # noqa: F401

import cifar_core
import experiments
import experiments.run

for package in (cifar_core, experiments):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.startswith(__name__):
            importlib.import_module(module.name)

# multiprocessing has each fork run the command line's main module once more, unless it is there already.
sys.modules["__main__"] = experiments.run
