"""What stages exchange: tables joined by slice id, sample rows, cross-fitted columns, counts."""
