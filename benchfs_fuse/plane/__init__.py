"""The plane: FUSE requests taken from /dev/fuse, answered and replied to through the ring that does the chunk I/O."""
