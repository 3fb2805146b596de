"""Privacy: what tables, reports and messages may show of a file.

pseudonyms          identifiers and paths, as tables hold them
defined_terms       the words of DICOM that may be shown; any other text becomes "?"
escaped_names       names of files with line breaks and other odd bytes
redaction           messages without passwords, values of tags and paths
quarantine_reasons  why a file is refused, as reports show it
"""
