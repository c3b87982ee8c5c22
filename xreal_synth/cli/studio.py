"""`xreal-synth studio`."""

from __future__ import annotations

import webbrowser
from typing import Annotated

from typer import Option

from xreal_synth.cli.output import note

EXAMPLES = ("xreal-synth studio", "xreal-synth studio --bundle my-xreal --host 0.0.0.0 --port 8080")


def studio(
    bundle: Annotated[str, Option(help="Model bundle: a shipped name, a folder or a URI.")] = "xreal-mini",
    host: Annotated[str, Option(help="Address to listen on; any but loopback asks for a token.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 7860,
    token: Annotated[
        str | None,
        Option(
            envvar="XREAL_STUDIO_TOKEN",
            show_envvar=True,
            help="What browsers must know; left out, a new one where one is needed, printed once.",
        ),
    ] = None,
    open_browser: Annotated[bool, Option("--open/--no-open", help="Whether a browser is opened.")] = False,
) -> None:
    """Make images and browse datasets in the browser."""
    from xreal_synth.studio.serve import checked_token, listening, serve

    wanted = checked_token(host, token)
    bound = listening(host, port)

    def ready(url: str) -> None:
        note(f"studio: {url} (Ctrl-C ends it)")
        if wanted is not None and token is None:
            note(f"token: {wanted}")
        if open_browser:
            webbrowser.open(url)

    serve(bundle, bound, wanted, ready)
