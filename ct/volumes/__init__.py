"""How slices lie in the patient, and files that hold a volume: which way up, NIfTI."""
