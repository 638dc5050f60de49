"""A table of transactions: its description, reading and checking its rows, its split in time,
simulation.
"""
