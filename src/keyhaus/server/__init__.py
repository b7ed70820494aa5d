"""Listeners, connections and the life cycle of the process."""
