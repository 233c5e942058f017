"""The calls of `Bus`, by what they are for; nothing here does anything of its own."""
