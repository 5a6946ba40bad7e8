"""How is a run configured?"""
