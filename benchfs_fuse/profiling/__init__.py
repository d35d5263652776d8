"""``benchfs profile``: asks the daemon of a mount what its requests cost, and tells it as table, JSON and trace."""
