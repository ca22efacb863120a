"""The retriever: what a user holds."""
