"""The event loops that a server may run on."""

from collections.abc import Iterator

import pytest

from zipasr.serve import server


@pytest.fixture(params=["uvloop", "asyncio"], scope="module")
def each_loop(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the tests with the loop that a server chooses, and with that of a server without uvloop."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "asyncio":
            patch.setattr(server, "_loop_factory", lambda: None)
        else:
            pytest.importorskip("uvloop", reason="not installed, so servers use asyncio's event loop")
            assert server._loop_factory() is not None
        yield request.param
