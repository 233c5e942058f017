"""How the whole bus does: every address in numbers, at one moment."""
