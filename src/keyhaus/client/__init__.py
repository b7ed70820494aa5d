"""The client library. Empty until it comes."""
