"""Trajectories and examples in the terminal.

What is chosen and why comes from the rules' views and from the files that `select` wrote; nothing is decided here.
Trajectory text is untrusted: control characters are shown as escapes and nothing in it is read as markup.
"""

from trajkit.display.terminal.find import find
from trajkit.display.terminal.trajectory import picture

__all__ = ["find", "picture"]
