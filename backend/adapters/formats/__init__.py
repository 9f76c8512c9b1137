"""The formats of adapters, one file each."""
