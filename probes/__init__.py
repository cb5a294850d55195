"""Record, analyse and change the routing of mixture-of-experts language models."""

__version__ = "0.1.0"
