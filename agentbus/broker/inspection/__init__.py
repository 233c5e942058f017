"""Read-only views of what Redis holds. Nothing here joins a group, takes work or writes a key.

``look``: one address in one atomic read. ``inbox_view``: the same for people, with the ledger. ``counts``:
many addresses in numbers. ``tracing``: every place of one message. ``tailing``: what arrives. ``health``:
what the server says of itself. Take each from its own file: nobody needs them all.
"""
