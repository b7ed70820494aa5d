"""The same database in-process. Empty until it comes."""
