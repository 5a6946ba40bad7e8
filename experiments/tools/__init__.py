"""What else can be done with a configuration or a run?"""
