"""A process that the machine stopped for a while, as a paused virtual machine is."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.crash.process import check_file, configure, converge, running
from tests.devnet import Activity, Devnet

SEED = 20_261_126
IDLE_S = 1.0
STOPPED_S = 2.5
"""Longer than the stream may be silent, and than a heartbeat."""


@pytest.mark.slow
async def test_a_process_that_was_stopped_for_a_while_goes_on_and_loses_nothing(tmp_path: Path):
    async with Devnet(seed=SEED) as net:
        activity = Activity(net, rate=200.0, accounts_max=10, is_calm=True)
        await activity.steps(60)
        config = configure(tmp_path / "store", net)
        settings = config.read_text().replace("[firehose]\n", f"[firehose]\nidle_s = {IDLE_S}\n")
        config.write_text(settings)
        database = tmp_path / "store" / "index.db"
        async with running(config) as (process, output):
            await output.started()
            await converge(net, database)
            process.send_signal(signal.SIGSTOP)
            await activity.steps(60)
            await asyncio.sleep(STOPPED_S)  # the time that passes is what is tested
            process.send_signal(signal.SIGCONT)
            await converge(net, database)
            await activity.steps(20)
            await converge(net, database)
            assert process.returncode is None
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 10.0) == 0, output.text[-3000:]
        assert "clock.doubted" not in output.text
        check_file(database)
