"""Palaestra: environments, agents and algorithms for language-model agents."""
