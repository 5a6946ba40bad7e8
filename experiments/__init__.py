"""Turns the values in conf/ into runs and sweeps."""
