"""How are many runs chosen, started and kept alive?"""
