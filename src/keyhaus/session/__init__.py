"""One client's state: who it is, its open transactions, dispatch."""
