"""What `evaluate` needs: labels joined to scored studies or predictions, and the figures."""
