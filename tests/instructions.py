"""Work of Python code in executed instructions, which does not depend on the machine as time does."""

import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any


def num_instructions(module: ModuleType, function: Callable[[], object]) -> int:
    """The number of bytecode instructions that functions of the module execute during a call."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != module.__file__:
            return None
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()  # of a debugger, or of coverage
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count
