"""Imports MLflow, once, in the server that tracked trials are forked from."""

from experiments.tracking import mlflow_store

mlflow_store.import_mlflow()
