"""What behaviour may depend on besides settings, as one parameter: a test owns its world."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from indexer.clock import Clock, SystemClock
from indexer.service_manager import ServiceManager


@dataclass(slots=True, kw_only=True)
class World:
    """The defaults are the real ones."""

    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=random.Random)
    reach: Callable[[str], None] = lambda _: None  # called at named crash points
    manager: ServiceManager = field(default_factory=ServiceManager)  # nobody, unless it is given
