"""What two agents say to each other: direct messages, and conversations with what was read of them."""
