"""What does a run do?"""
