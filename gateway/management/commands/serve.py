"""`manage.py serve`: everything in one command, or the web processes alone with --web-only."""

import os
import socket
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any, NoReturn

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from gateway.config import ConfigInvalid
from gateway.server.address import ANY_HOST, console_base
from gateway.server.bootstrap import ECHO_MODEL, StartPlan, StartRefused, StartSummary, plan_start, prepare
from gateway.server.parent import ChildProcesses, become_parent
from gateway.server.processes import CHILD_GRACE_S, ProcessGroup, follow_parent, save_memory
from gateway.stores.schema import DatabaseNotReady, check_schema
from gateway.version import VERSION


class Command(BaseCommand):
    help = "Serve the gateway and its console; with worker and beat unless --web-only."
    requires_system_checks = []  # they cost a second of every start; `manage.py check` runs them

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--config", default=settings.TOLLGATE_CONFIG, help="a LiteLLM config.yaml")
        parser.add_argument("--host", default=settings.HOST)
        parser.add_argument("--port", type=int, default=settings.PORT)
        parser.add_argument("--server", choices=["uvicorn", "daphne"], default="uvicorn")
        parser.add_argument("--web-only", action="store_true", help="worker and beat run elsewhere")
        parser.add_argument("--listener", type=int, help="internal: the inherited socket of a further web process")
        parser.add_argument("--prepare", action="store_true", help="internal: this web process prepares the database")
        parser.add_argument("--lifeline", type=int, help="internal: the pipe that ends with the parent")

    def handle(self, *args: Any, **options: Any) -> None:
        save_memory()
        if options["listener"] is not None:
            self._serve_as_child(options)
        try:
            plan = plan_start(options["config"])
            summary = self._try_to_prepare(plan)
        except (ConfigInvalid, StartRefused) as error:
            raise CommandError(str(error)) from None
        try:
            listener = listen(options["host"], options["port"])
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise CommandError(f"Cannot listen on {options['host']}:{options['port']}: {reason}") from None
        worker = [] if options["web_only"] else [["worker", "--beat"]]
        if settings.WEB_CONCURRENCY > 1:
            listener.listen()
            self._announce(summary, options)
            become_parent(
                ChildProcesses(
                    program=[sys.executable, sys.argv[0]],
                    arguments=[*worker, *_web_children(options, listener, is_prepared=summary is not None)],
                    sockets=[listener.fileno()],
                    grace_s=web_grace_s(),
                )
            )
        processes = ProcessGroup()
        try:
            for arguments in worker:
                processes.start(*arguments)
            before_start = check_schema if summary else self._late_prepare(plan, options)
            _serve(options["server"], listener, before_start, lambda: self._announce(summary, options))
        finally:
            processes.stop(CHILD_GRACE_S)
        sys.stdout.flush()
        os._exit(0)  # nothing is left to do, and idle threads must not hold the exit up

    def _serve_as_child(self, options: dict[str, Any]) -> NoReturn:
        follow_parent(options["lifeline"], web_grace_s())
        before_start = (
            self._late_prepare(plan_start(options["config"]), options) if options["prepare"] else check_schema
        )
        _serve(options["server"], socket.socket(fileno=options["listener"]), before_start, lambda: None)
        sys.stdout.flush()
        os._exit(0)

    def _try_to_prepare(self, plan: StartPlan) -> StartSummary | None:
        """None while the database cannot be used: then the web process prepares it later."""
        try:
            return prepare(plan)
        except DatabaseNotReady:  # the web process reports it
            return None

    def _late_prepare(self, plan: StartPlan, options: dict[str, Any]) -> Callable[[], None]:
        """The function that prepares the database once it can be used."""

        def prepare_late() -> None:
            try:
                summary = prepare(plan)
            except ConfigInvalid as error:
                raise DatabaseNotReady("The configuration file cannot be loaded; the log says why.") from error
            self._announce(summary, options)

        return prepare_late

    def _announce(self, summary: StartSummary | None, options: dict[str, Any]) -> None:
        if summary is not None:
            self._welcome(summary, options)

    def _welcome(self, summary: StartSummary, options: dict[str, Any]) -> None:
        base = console_base(options["host"], options["port"])
        key = summary.new_master_key or "$TOLLGATE_MASTER_KEY"
        lines = [f"Tollgate {VERSION} serves {base}", ""]
        lines += [f"  warning: {warning}" for warning in summary.warnings]
        if options["host"] in ANY_HOST:
            lines.append("              (it listens on every address of this host; elsewhere use the host's name)")
        if summary.login_token is not None:
            lines.append(f"  console     {base}/console/login/link/{summary.login_token}/")
            lines.append("              (logs the platform admin in once, within an hour)")
        else:
            lines.append(f"  console     {base}/console/")
            lines.append("              (for a one-time login link: manage.py login_link)")
        if summary.new_master_key:
            lines.append(f"  master key  {summary.new_master_key}")
            lines.append("              (shown this once, kept nowhere: store it now)")
        elif settings.TOLLGATE_MASTER_KEY:
            lines.append("  master key  as given in the environment")
        else:
            lines.append("  master key  as before (start with TOLLGATE_MASTER_KEY=... to replace it)")
        if summary.has_echo:
            body = f'{{"model": "{ECHO_MODEL}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
            lines.append(
                f'  try it      curl {base}/v1/chat/completions -H "Authorization: Bearer {key}" '
                f"-H 'Content-Type: application/json' -d '{body}'"
            )
        else:
            lines.append(f'  try it      curl {base}/v1/models -H "Authorization: Bearer {key}"')
        self.stdout.write("\n".join([*lines, ""]))
        self.stdout.flush()


def web_grace_s() -> float:
    """The seconds that a web process may take to end: its drain, then writing and closing."""
    return settings.TOLLGATE_DRAIN_DELAY_S + settings.TOLLGATE_DRAIN_GRACE_S + CHILD_GRACE_S


def _web_children(options: dict[str, Any], listener: socket.socket, *, is_prepared: bool) -> list[list[str]]:
    """The arguments of each web process. The first one prepares the database where the start could not."""
    web = ["serve", "--server", options["server"], "--listener", str(listener.fileno())]
    address = ["--config", options["config"], "--host", options["host"], "--port", str(options["port"])]
    first = web if is_prepared else [*web, "--prepare", *address]
    return [first, *[web] * (settings.WEB_CONCURRENCY - 1)]


def _serve(
    server: str, listener: socket.socket, before_start: Callable[[], None], on_ready: Callable[[], None]
) -> None:
    if server == "daphne":
        from gateway.server.daphne_server import serve_daphne  # noqa: PLC0415 - installs Twisted's reactor

        serve_daphne(listener, before_start, on_ready)
    else:
        from gateway.server.uvicorn_server import serve_web  # noqa: PLC0415 - builds the application

        serve_web(listener, before_start, on_ready)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises OSError where the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host.strip("[]"), port))
    listener.set_inheritable(True)
    return listener
