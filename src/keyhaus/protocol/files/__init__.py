"""Rows in files: one object a line (`lines`), one document (`document`), a table (`table`); codecs without I/O."""
