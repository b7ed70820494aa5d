"""Backups: made while the server runs or when it is stopped, and brought back, to their end or to an earlier moment."""
