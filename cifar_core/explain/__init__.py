"""What a network learned: maps, metrics, calibration, labels, statistics."""
