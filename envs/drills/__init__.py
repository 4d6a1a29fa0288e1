"""The big families in small: learnable from nothing on one core."""
