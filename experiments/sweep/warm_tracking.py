"""Imports MLflow, once, in the server that tracked trials are forked from."""

from experiments import tracking

tracking.import_mlflow()
