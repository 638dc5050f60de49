"""A table of transactions: description, reading, checks, features, split in time, simulation."""
