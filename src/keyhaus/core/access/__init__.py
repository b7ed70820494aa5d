"""Reading and writing in Python's terms: the methods of clients, of databases within a process, and of transactions.

They are written once, so they can't differ: what a method sends and what it makes of the reply stands in `aio/`, and
`tools/generate_client.py` makes `blocking/` from it. Clients and databases add what they do to ask.
"""
