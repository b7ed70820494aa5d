"""The asynchronous methods, from which the blocking ones are made."""
