"""What users did: sequences, batches, splits, filters, and the content of items.

May import: nothing else of the package.
"""
