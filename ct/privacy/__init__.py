"""What may leave a file: pseudonyms, known words, names of files and messages without names."""
