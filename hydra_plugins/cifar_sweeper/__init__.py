"""The sweeper of this project, found by Hydra."""
