"""The decoding strategies, one file each; found by listing this package."""
