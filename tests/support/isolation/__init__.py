"""Random concurrent histories of transactions and commands, checked for strict serializability and durability."""
