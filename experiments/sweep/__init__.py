"""Sweeps: a space of points, a ledger of trials, and a controller that runs them as plain runs."""
