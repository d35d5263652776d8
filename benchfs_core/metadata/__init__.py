"""Names, attributes and directories in SQLite: the only package with SQL.

``schema`` is the reference, ``manager`` the namespace, ``marks`` what is known about chunk files, ``group_commit``
durability.
"""
