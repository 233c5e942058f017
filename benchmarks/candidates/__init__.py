"""One file per measured system. Each imports its own libraries, so only its process needs them."""
