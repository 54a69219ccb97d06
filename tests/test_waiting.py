"""Contract: no verdict of a test depends on how fast the machine is. Tests measure no time, and wait for others as long as
`tests.watchdog.WATCHDOG_S`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CLOCKS = {"process_time", "perf_counter", "thread_time", "process_time_ns", "perf_counter_ns"}
REQUESTS = {"get", "post", "put", "options", "head", "delete", "request", "stream", "Client"}


def findings(tree: ast.AST) -> Iterator[str]:
    """What in a file of tests depends on the speed of the machine."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "websockets.sync.client":
            if any(alias.name == "connect" and alias.asname is None for alias in node.names):
                yield f"line {node.lineno}: connect waits for 10 s; use that of tests.serve.clients"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        method = name.rpartition(".")[2]
        timeouts = {word.arg: word.value for word in node.keywords if word.arg in ("timeout", "open_timeout")}
        limits = [*timeouts.values(), *(node.args if method in ("wait_for", "timeout", "settimeout") else ())]
        if method in CLOCKS:
            yield f"line {node.lineno}: {name} measures time"
        if any(isinstance(limit, ast.Constant) and isinstance(limit.value, int | float) for limit in limits):
            yield f"line {node.lineno}: {name} waits for a time that a busy machine may need"
        if name in {f"httpx2.{method}" for method in REQUESTS} and "timeout" not in timeouts:
            yield f"line {node.lineno}: {name} waits for 5 s; give it a timeout"


def test_no_verdict_depends_on_the_clock() -> None:
    found = {path.relative_to(TESTS).as_posix(): list(findings(ast.parse(path.read_text()))) for path in TESTS.rglob("*.py")}
    assert len(found) > 300
    assert {name: places for name, places in found.items() if places} == {}


@pytest.mark.parametrize(
    "code",
    [
        "assert time.process_time() - before < 1",
        "process.communicate(timeout=60)",
        "await asyncio.wait_for(answer, 2.0)",
        "httpx2.get(url)",
        "from websockets.sync.client import connect",
    ],
)
def test_what_depends_on_it_is_found(code: str) -> None:
    assert list(findings(ast.parse(code)))
