"""Looking for damage, and bringing back what is readable: on files that no server has open."""
