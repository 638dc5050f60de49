"""A table of transactions: description, reading, checks, split in time, simulation."""
