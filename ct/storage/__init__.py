"""Files that are whole or not there, and seals that show damage."""
