"""Tables of any size: storage by address, their parts, pure functions of a part, where they run."""
