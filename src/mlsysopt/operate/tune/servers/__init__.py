"""Servers that are shipped: one file each."""
