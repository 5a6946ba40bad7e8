"""How do runs compare?"""
