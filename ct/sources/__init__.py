"""Where files come from: a folder or a zip archive, read in place.

source               the interfaces Source and SourceFile; the error Unreadable
folder, zip_archive  the two sources
file_reader          reads files, and separates a file's own faults from the machine's
decompression_limit  how large a compressed file may become
"""
