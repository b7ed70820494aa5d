"""What lies at rest under the memtable. Empty until the first engine comes."""
