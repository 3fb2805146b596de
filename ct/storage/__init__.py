"""Files on disk: atomic writes, file formats, seals that reveal damage, receipts."""
