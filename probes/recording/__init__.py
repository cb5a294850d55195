"""The parts of a recording: what is to be fed (plan), what came out (rows), what made it (provenance)."""
