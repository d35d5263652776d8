"""BenchFS itself: volumes, files, chunks and metadata, usable without FUSE. Start at ``volume.open_volume``."""
