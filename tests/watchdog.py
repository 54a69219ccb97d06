"""How long tests wait for another process or thread: long enough for any machine, so that it only ends a test that hangs."""

WATCHDOG_S = 600.0
