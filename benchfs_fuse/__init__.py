"""BenchFS over FUSE: commands, mounting, and the translation of requests. The only package that imports pyfuse3."""
