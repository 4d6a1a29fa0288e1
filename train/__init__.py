"""How experience becomes weights."""
