"""``benchfs bench``: a fixed set of workloads on several directories, in turns; no part of a mount."""
