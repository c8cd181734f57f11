"""The console: static files, served to anybody, that know nothing until a password is given.

Everything they need is under the same origin; the policy sent with them lets a browser load and
contact nothing else.
"""

from __future__ import annotations

from importlib import resources

from aiohttp import web

PAGES = {
    "/": ("index.html", "text/html"),
    "/console.css": ("console.css", "text/css"),
    "/console.js": ("console.js", "text/javascript"),
    "/console-daemon.js": ("console-daemon.js", "text/javascript"),
    "/console-views.js": ("console-views.js", "text/javascript"),
}
"""Path -> (file, media type)."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class ConsoleFiles:
    """The files, read once: an upgrade comes with a restart."""

    def __init__(self) -> None:
        folder = resources.files("admin_api").joinpath("console")
        self._bodies = {
            path: (folder.joinpath(name).read_bytes(), media_type)
            for path, (name, media_type) in PAGES.items()
        }

    def response(self, path: str) -> web.Response | None:
        """The answer for a path of the console, None for any other."""
        if (page := self._bodies.get(path)) is None:
            return None
        body, media_type = page
        return web.Response(
            body=body, headers={**HEADERS, "Content-Type": f"{media_type}; charset=utf-8"}
        )
