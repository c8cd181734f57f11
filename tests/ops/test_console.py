"""The console, used in a browser as an admin uses it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, ConsoleMessage, Page, async_playwright, expect

from tests.devnet import Account, Activity, Devnet, FaultKind
from tests.e2e.daemon import PASSWORD, RunningDaemon, running_daemon, wait_until
from tests.e2e.test_stream_gaps import EQUAL_S, settings, tag
from tests.oracle import wait_until_equal

pytestmark = pytest.mark.ops

CHROMIUM = "/usr/bin/chromium"
PICTURES = Path(os.environ.get("CONSOLE_PICTURES", ".pictures"))
"""Where the pictures of the page are left to be looked at."""

WAIT_MS = 20_000
SIZES = {
    "light": ("light", 1280, 900),
    "dark": ("dark", 1280, 900),
    "phone": ("dark", 390, 844),
}


@dataclass
class Stage:
    """A daemon on the devnet, a browser, and what the browser complained about."""

    net: Devnet
    daemon: RunningDaemon
    account: Account
    context: BrowserContext
    complaints: list[str] = field(default_factory=list)

    async def page(self) -> Page:
        page = await self.context.new_page()
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        await page.goto(self.daemon.addresses.admin_url)
        return page

    def _hear(self, message: ConsoleMessage) -> None:
        # A refused password is written there by the browser itself.
        if message.type in {"error", "warning"} and "401" not in message.text:
            self.complaints.append(message.text)

    async def signed_in(self) -> Page:
        page = await self.page()
        await page.get_by_label("Admin password").fill(PASSWORD)
        await page.keyboard.press("Enter")
        await expect(page.locator("#stream")).to_contain_text("connected", timeout=WAIT_MS)
        return page


@asynccontextmanager
async def stage(folder: Path, picture: str = "light") -> AsyncIterator[Stage]:
    scheme, width, height = SIZES[picture]
    async with Devnet(seed=5) as net, async_playwright() as playwright:
        account = await net.create_account()
        governor = await net.create_account()
        tag(net, account)
        values = settings(net)
        values["governance"] = {"did": governor.did}
        values["backfill"] = {"bootstrap": False}
        async with running_daemon(folder, values) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            # Chromium has no sandbox of its own for root, who runs this.
            browser = await playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox"]
            )
            context = await browser.new_context(
                color_scheme="dark" if scheme == "dark" else "light",
                viewport={"width": width, "height": height},
            )
            context.set_default_timeout(WAIT_MS)
            found = Stage(net, daemon, account, context)
            yield found
            await browser.close()
            assert found.complaints == []


async def test_a_wrong_password_is_told_and_the_right_one_lets_in(tmp_path: Path):
    async with stage(tmp_path) as at:
        page = await at.page()
        await page.get_by_label("Admin password").fill("not the password")
        await page.keyboard.press("Enter")
        await expect(page.locator("#sign-in-error")).to_have_text("Wrong password.")
        await expect(page.locator("#console")).to_be_hidden()
        await page.get_by_label("Admin password").fill(PASSWORD)
        await page.keyboard.press("Enter")
        await expect(page.locator("#health")).to_have_text("healthy")
        await expect(page.locator("#sign-in")).to_be_hidden()
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.locator("#console")).to_be_hidden()
        await expect(page.locator("#sign-in")).to_be_visible()


async def test_every_type_of_operation_is_started_and_seen_to_its_end(tmp_path: Path):
    async with stage(tmp_path) as at:
        page = await at.signed_in()
        await page.get_by_text("History").click()
        for count, kind in enumerate(
            ("didSync", "pdsScan", "freshnessScan", "citationExtraction", "fullReindex",
             "governanceSync"), start=1,
        ):  # fmt: skip
            await page.locator("#start").get_by_label("Type").select_option(kind)
            if kind == "didSync":
                await page.get_by_label("Account").fill(at.account.did)
            if kind == "fullReindex":
                await page.get_by_label("Batch size").fill("100")
            await page.get_by_role("button", name="Start").click()
            await expect(page.locator("#started")).to_contain_text(kind)
            await wait_until(
                lambda kind=kind: at.daemon.rows(
                    "SELECT status FROM operations WHERE type = ?", kind
                ) == [("completed",)],
                what=f"the end of {kind}",
            )  # fmt: skip
            await expect(page.locator("#history tbody tr")).to_have_count(count, timeout=WAIT_MS)
            await expect(page.locator("#history tbody tr").first).to_contain_text(kind)


async def test_an_operation_is_cancelled_while_its_progress_is_shown(tmp_path: Path):
    async with stage(tmp_path) as at:
        page = await at.signed_in()
        hang = at.net.faults.schedule(
            FaultKind.HTTP_HANG, times=None, endpoint="com.atproto.sync.getRepoStatus"
        )
        await page.get_by_label("Account").fill(at.account.did)
        await page.get_by_role("button", name="Start").click()
        await expect(page.locator("#running progress")).to_be_visible()
        await wait_until(lambda: hang.fired > 0, what="the request that hangs")
        await page.get_by_role("button", name="Cancel didSync").click()
        await expect(page.locator("#running li")).to_have_count(0)
        assert at.daemon.rows("SELECT status FROM operations") == [("cancelled",)]
        await page.get_by_text("History").click()
        await expect(page.locator("#history tbody tr").first).to_contain_text("cancelled")


async def test_a_dead_letter_is_retried_and_another_dismissed(tmp_path: Path):
    async with stage(tmp_path) as at:
        for rkey in ("3lzzzzzzzzz2a", "3lzzzzzzzzz2b"):
            # What breaks its lexicon, with markup that must stay text.
            at.net.create(
                at.account,
                "pub.chive.eprint.userTag",
                {"$type": "pub.chive.eprint.userTag", "tag": "<img src=x onerror=alert(1)>"},
                rkey=rkey,
            )
        await wait_until(
            lambda: len(at.daemon.rows("SELECT id FROM dead_letters")) == 2, what="dead letters"
        )
        ids = [str(row[0]) for row in at.daemon.rows("SELECT id FROM dead_letters ORDER BY id")]
        page = await at.signed_in()
        await expect(page.locator("#letters tbody tr")).to_have_count(2, timeout=WAIT_MS)
        assert await page.locator("#letters img").count() == 0
        await page.get_by_role("button", name=f"Retry {ids[0]}").click()
        await wait_until(
            lambda: (
                at.daemon.rows("SELECT retry_count FROM dead_letters WHERE id = ?", ids[0])
                == [(1,)]
                or not at.daemon.rows("SELECT 1 FROM dead_letters WHERE id = ?", ids[0])
            ),
            what="the retry",
        )
        await page.get_by_role("button", name=f"Dismiss {ids[1]}").click()
        await expect(page.get_by_role("button", name=f"Dismiss {ids[1]}")).to_have_count(0)
        assert at.daemon.rows("SELECT 1 FROM dead_letters WHERE id = ?", ids[1]) == []


async def test_the_stream_is_paused_and_resumed_with_the_keyboard_alone(tmp_path: Path):
    async with stage(tmp_path) as at:
        page = await at.signed_in()
        for name, state in (("Pause", "paused"), ("Resume", "connected")):
            button = page.get_by_role("button", name=name)
            for _ in range(50):
                await page.keyboard.press("Tab")
                if await button.evaluate("each => each === document.activeElement"):
                    break
            await page.keyboard.press("Enter")
            await expect(page.locator("#stream")).to_contain_text(state)


async def test_the_page_says_that_the_daemon_is_gone(tmp_path: Path):
    async with stage(tmp_path) as at:
        page = await at.signed_in()
        await at.context.set_offline(True)
        await expect(page.locator("#notice")).to_contain_text("does not answer")
        await at.context.set_offline(False)
        await expect(page.locator("#notice")).to_be_hidden()
        at.complaints.clear()  # the browser's own, about requests that failed


@pytest.mark.parametrize("picture", SIZES)
async def test_a_picture_is_taken(picture: str, tmp_path: Path):
    async with stage(tmp_path, picture) as at:
        await Activity(at.net, 100.0, accounts_max=10).steps(100)
        page = await at.signed_in()
        hang = at.net.faults.schedule(
            FaultKind.HTTP_HANG, times=None, endpoint="com.atproto.sync.getRepoStatus"
        )
        await page.get_by_label("Account").fill(at.account.did)
        await page.get_by_role("button", name="Start").click()
        await wait_until(lambda: hang.fired > 0, what="an operation to be seen at work")
        await expect(page.locator("#audit tbody tr")).to_have_count(1)
        width = await page.evaluate("document.documentElement.scrollWidth")
        assert width <= SIZES[picture][1], "the page is wider than its window"
        PICTURES.mkdir(exist_ok=True)
        await page.screenshot(path=PICTURES / f"console-{picture}.png", full_page=True)
        at.net.faults.clear()
