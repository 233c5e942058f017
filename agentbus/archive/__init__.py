"""The archive: what has ended, kept in PostgreSQL after it has left Redis.

Needs the extra ``archive``; nothing here is imported before somebody asks for an archive.
"""
