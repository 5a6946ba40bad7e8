"""What is shown of a run: pages, charts, sheets, files of numbers."""
