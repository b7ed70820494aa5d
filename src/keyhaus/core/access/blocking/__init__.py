"""The methods that block, made from the asynchronous ones."""
