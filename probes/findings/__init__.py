"""What a recording says at first sight, in plain words: each fact with its number and the command that shows more.

`findings` takes them from the sums stored with a trace, at once and at any size. `overview` reads the whole run: it
adds what needs every token, the intervals, and which differences are within noise.
"""

from __future__ import annotations

from probes.findings.finding import Finding
from probes.findings.stored import findings
from probes.findings.whole import overview, overview_table

__all__ = ["Finding", "findings", "overview", "overview_table"]
