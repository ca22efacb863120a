"""Models that several studies train.

May import: nothing of the project.
"""
