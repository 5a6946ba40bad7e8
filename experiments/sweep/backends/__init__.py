"""Where do the trials of a sweep run?"""
