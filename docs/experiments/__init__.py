"""The experiments behind the measured effects in docs/interventions.md, one file each."""
