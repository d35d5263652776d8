"""The plane: FUSE requests taken from /dev/fuse and answered by who drives the ring of the chunk I/O."""
