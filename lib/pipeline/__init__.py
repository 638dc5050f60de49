"""How notebooks become a run: what was asked, what is up to date, what is executed, what is said of it."""
