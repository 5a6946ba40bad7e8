"""Pictures: read, decoded, cached, split."""
