"""What may leave a file: pseudonyms, code words, and names of files without the names of people."""
