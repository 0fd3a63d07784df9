"""`trapeze doctor`: what on this machine makes a 502 or a stall.

`gather` looks at the machine and fills `facts`; `judge` has a function for each finding, which looks at nothing else.
"""

from __future__ import annotations

__all__: list[str] = []
