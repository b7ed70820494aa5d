"""keyhaus: a key/value database server, durable before it answers."""

__version__ = "0.1.0.dev0"
