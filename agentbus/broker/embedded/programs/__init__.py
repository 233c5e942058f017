"""Programs that run beside a server, in processes of their own.

They are started by the path of their file and never load the package: a keeper that lives for hours must
be small and must start at once. So they use the standard library alone and name each other without
the package.
"""
