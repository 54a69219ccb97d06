"""How long tests wait for others: long enough for any machine, and no test depends on it. It ends one that hangs."""

WATCHDOG_S = 600.0
