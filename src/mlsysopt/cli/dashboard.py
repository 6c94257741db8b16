"""`mlsysopt dashboard`: browse a store in optuna-dashboard."""

from __future__ import annotations

import click

from mlsysopt.cli.options import option
from mlsysopt.core.errors import MissingExtra, UsageError


@click.command()
@click.argument("store", metavar="STORE")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port on 127.0.0.1; 0 takes a free one.",
)
@option("--json", "as_json", is_flag=True)
def dashboard(store: str, port: int, as_json: bool) -> int:
    """Serve STORE in optuna-dashboard on 127.0.0.1 until Ctrl-C."""
    import json
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    try:
        from optuna_dashboard import wsgi
    except ModuleNotFoundError:
        raise MissingExtra.of("the dashboard", "tune") from None
    from mlsysopt.core.store import Store

    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Keep requests off the terminal."""

    with Store.open(store, create=False) as opened:
        try:
            server = make_server("127.0.0.1", port, wsgi(opened.optuna), handler_class=Quiet)
        except OSError as error:
            raise UsageError(
                f"port {port} on 127.0.0.1: {error.strerror}; choose another with --port, 0 takes a free one"
            ) from None
        address = f"http://127.0.0.1:{server.server_port}/"
        click.echo(json.dumps({"address": address}) if as_json else f"{address} shows {opened.url}; Ctrl-C stops it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
        finally:
            server.server_close()
    return 0
