"""The same database within a Python process: `keyhaus.open`, and `keyhaus.StorageEngine`, a face of it."""
