"""The frame dialect: length-prefixed pickles, which are never executed, and MessagePack."""
