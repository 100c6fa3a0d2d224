"""The old place of `trajkit.exploration.env`, for one release. `trajkit` has Env, Message, Policy and Task."""

from __future__ import annotations

import warnings

from trajkit.exploration.env import *  # noqa: F403
from trajkit.exploration.env import Message as Message

warnings.warn(
    "trajkit.env will go: write `from trajkit import Env, Message, Policy, Task`.", DeprecationWarning, stacklevel=2
)
