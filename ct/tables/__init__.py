"""Tables that a user brings or opens: slice lists, predictions, spreadsheets."""
