"""`keyhaus bench`: how fast a server is, and what it keeps when it is killed."""
