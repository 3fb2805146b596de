"""From checked options to the work of a run: stages, commands, receipts, freshness."""
