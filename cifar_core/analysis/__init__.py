"""What a finished run explains about itself: numbers, tables, contact sheets and plots."""
