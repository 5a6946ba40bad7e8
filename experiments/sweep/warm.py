"""Imports what trials need, once, in the server they are forked from. Nothing here may start CUDA."""

import hydra.core.hydra_config  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch  # noqa: F401

import cifar_core.analysis.analyse  # noqa: F401
import cifar_core.analysis.plots  # noqa: F401
import cifar_core.train  # noqa: F401
import experiments.checkpoints  # noqa: F401
import experiments.environment  # noqa: F401
import experiments.sweep.jobs  # noqa: F401
import experiments.targets  # noqa: F401
import experiments.tracking  # noqa: F401
