"""Tables that people bring or open: slice lists, predictions, spreadsheets."""
