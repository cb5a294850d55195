"""`probe`: one file per command; no logic, which lives in the library."""
