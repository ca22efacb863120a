"""What users did: sequences, batches, splits, filters, and the content of items.

May import: arrays.
"""
