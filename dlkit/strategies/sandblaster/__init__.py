"""Sandblaster L-BFGS: a coordinator gives commands to servers that hold vectors, and portions to whoever is free."""
