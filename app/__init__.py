"""The dashboard: pages over one or more traces."""
