"""What became of messages: one query over Redis and the archive, page by page."""
