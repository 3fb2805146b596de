"""What stage two sees: each slice's opinions, its neighbours', its study's, and where it lies."""
