"""Who acts. Policies, and agents built from them."""
