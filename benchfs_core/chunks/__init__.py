"""Where the bytes of files are: the ``ChunkStore`` protocol (``store``), three stores, the reactor (``ring``)."""
