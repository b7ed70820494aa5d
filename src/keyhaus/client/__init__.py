"""The client library: `keyhaus.Client`, and `keyhaus.AsyncClient` for asyncio.

A typed layer on redis-py, which keeps the connections, opens them and parses the replies. What it does not leave to
redis-py is when something may be sent twice: see `words.py` and `aio/transaction.py`.

The asynchronous client (`aio/`) is the source. The one that blocks (`blocking/`) is made from it by
`tools/generate_client.py`; of it only the driver is written by hand.
"""
