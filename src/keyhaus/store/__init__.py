"""The database: records, order, transactions, expiry, recovery."""
