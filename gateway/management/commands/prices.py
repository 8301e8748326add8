"""`manage.py prices`: the catalogue, prices of models, models without a price, and repricing."""

import argparse
import getpass
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.amounts import per_million, per_token
from billing.catalogue.import_litellm import read_price_map
from billing.catalogue.lines import TOKENS, PriceLine
from billing.catalogue.seed import Book, read_seed
from billing.contracts import end_contract, read_percent, set_lines, set_percent
from billing.models import Price, PriceBook, RepriceJob
from billing.price_terms import PriceInvalid
from billing.prices import (
    activate_drafts,
    find_drafts,
    find_new,
    list_prices,
    reject_drafts,
    set_catalogue_price,
    sync_book,
)
from billing.repricing import Scope, Totals, preview, run_step, start_job
from billing.unpriced import find_unpriced
from gateway.deployments import DeploymentInvalid, find_deployments, set_base_model, set_price
from gateway.protocol.amounts import usd_text
from gateway.stores.deployment_prices import RowPrices, find_deployment_ids, has_model_prices, prices_in_force
from tenants.audit import acting_as
from tenants.invalid import ArgumentInvalid

#: Option → line, in USD per million tokens.
TOKEN_OPTIONS = {
    "input": "input",
    "output": "output",
    "cache_read": "cache_read",
    "cache_write": "cache_write_5m",
    "cache_write_1h": "cache_write_1h",
    "reasoning": "reasoning",
    "input_audio": "input_audio",
    "output_audio": "output_audio",
}
MAX_USD_PER_MILLION = 1_000_000
SHOWN = 200  # differences that are printed
PAUSE_S = 0.005  # for the answers that wait for SQLite's one write lock


class Command(BaseCommand):
    help = "Show and change prices. Setting a price touches no row that has a cost; `reprice` does."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, parser_class=argparse.ArgumentParser)
        sync = actions.add_parser("sync", help="store the prices that come with the gateway, or a file's as drafts")
        diff = actions.add_parser("diff", help="show what `sync` would store")
        for action in (sync, diff):
            action.add_argument("--litellm", type=Path, help="LiteLLM's model_prices_and_context_window.json")
        activate = actions.add_parser("activate", help="put drafts in force")
        reject = actions.add_parser("reject", help="put drafts away")
        for action in (activate, reject):
            which = action.add_mutually_exclusive_group(required=True)
            which.add_argument("--model", help="the exact name of a model")
            which.add_argument("--all", action="store_true", help="all drafts")
        listing = actions.add_parser("list", help="show prices of the catalogue that are in force")
        listing.add_argument("--model", default="", help="a part of the model's name")
        listing.add_argument("--provider", default="")
        unpriced = actions.add_parser("unpriced", help="show models whose calls have no price")
        for action in (listing, unpriced):
            action.add_argument("--json", action="store_true")
        setting = actions.add_parser("set", help="set the price of a model group or of a deployment")
        setting.add_argument("--model", required=True, help="a model group, or the id of a deployment")
        for name in TOKEN_OPTIONS:
            setting.add_argument(f"--{name.replace('_', '-')}", metavar="USD", help="USD per million tokens")
        setting.add_argument("--line", action="append", default=[], metavar="KEY=USD", help="any line, USD per unit")
        setting.add_argument("--base-model", help="the model of the catalogue that stands behind it")
        setting.add_argument("--catalogue", action="store_true", help="a version of the catalogue's PROVIDER/MODEL")
        setting.add_argument("--from", dest="since", metavar="DATE", help="since when; without it, at once")
        setting.add_argument("--organization", help="its contract; --model is then PROVIDER/MODEL, or PROVIDER/*")
        setting.add_argument("--percent", help="with --organization: more than the catalogue's price, or less")
        setting.add_argument("--remove", action="store_true", help="back to the price of the catalogue")
        reprice = actions.add_parser("reprice", help="price rows again by the prices in force")
        reprice.add_argument("--model", required=True, help="a model group, or the id of a deployment")
        rows = reprice.add_mutually_exclusive_group(required=True)
        rows.add_argument("--unpriced", action="store_true", help="rows without a cost")
        rows.add_argument("--from", dest="since", metavar="DATE", help="all rows since this day or instant, in UTC")
        reprice.add_argument("--dry-run", action="store_true", help="only tell what would change")
        reprice.add_argument("--yes", action="store_true", help="do not ask")
        reprice.add_argument("--reason", default="")

    def handle(self, *args: object, **options: Any) -> None:
        with acting_as(f"shell:{getpass.getuser()}"), scopes_disabled():  # a user of this shell is the platform admin
            match options["action"]:
                case "sync":
                    self._sync(options["litellm"])
                case "diff":
                    self._diff(*_read_book(options["litellm"]))
                case "activate":
                    self.stdout.write(f"{activate_drafts(options['model'] or ''):,} prices are in force now.")
                case "reject":
                    drafts = find_drafts()
                    count = reject_drafts(drafts if options["all"] else drafts.filter(model=options["model"]))
                    self.stdout.write(f"{count:,} drafts are rejected.")
                case "list":
                    self._list(options["model"], options["provider"], is_json=options["json"])
                case "unpriced":
                    self._unpriced(is_json=options["json"])
                case "set":
                    self._set(options)
                case "reprice":
                    self._reprice(options)

    def _sync(self, litellm: Path | None) -> None:
        book, source = _read_book(litellm)
        status = Price.Status.ACTIVE if litellm is None else Price.Status.DRAFT
        if litellm is not None:
            self._diff(book, source)
        count = sync_book(book, source, status)
        self.stdout.write(f"{book.title}: {count:,} new {'prices' if litellm is None else 'drafts'}.")

    def _diff(self, book: Book, source: PriceBook.Source) -> None:
        """The differences from what is in force, for a book of drafts; else from what its source gave before."""
        new = find_new(book, source)
        in_force = {(row.provider, row.model): row.lines for row in list_prices(organization_id="")[0]}
        shown = 0
        for one in new:
            old, lines = in_force.get((one.provider, one.model), {}), dict(one.lines)
            if old == lines:
                continue
            if shown < SHOWN:
                self.stdout.write(f"{one.provider}/{one.model}: {_render_difference(old, lines)}")
            shown += 1
        if shown > SHOWN:
            self.stdout.write(f"… and {shown - SHOWN:,} more")
        self.stdout.write(f"{len(new):,} new versions, {shown:,} of them differ from what is in force")

    def _list(self, model: str, provider: str, *, is_json: bool) -> None:
        rows, _ = list_prices(provider=provider, model=model)
        if is_json:
            answer = [
                {
                    "provider": row.provider,
                    "model": row.model,
                    "region": row.region,
                    "organization_id": row.organization_id or None,
                    "effective_from": row.effective_from.isoformat() if row.effective_from else None,
                    "lines": row.lines,
                }
                for row in rows
            ]
            self.stdout.write(json.dumps(answer, indent=2, ensure_ascii=False))
            return
        for row in rows:
            self.stdout.write(f"{row.provider}/{row.model}: {_render(row.lines)}")
        self.stdout.write(f"{len(rows):,} prices")

    def _unpriced(self, *, is_json: bool) -> None:
        rows = find_unpriced()
        if is_json:
            self.stdout.write(json.dumps([row.render() for row in rows], indent=2, ensure_ascii=False))
            return
        for row in rows:
            hint = f"; perhaps {row.suggestion}" if row.suggestion else ""
            self.stdout.write(
                f"{row.model_group} ({row.deployment_id}) → {row.provider}/{row.upstream_model}: "
                f"{row.requests:,} requests, {row.input_tokens:,} tokens in, {row.output_tokens:,} out{hint}"
            )
        self.stdout.write(f"{len(rows):,} models without a price")

    def _set(self, options: Mapping[str, Any]) -> None:
        lines = _read_lines(options)
        if options["organization"] or options["catalogue"]:
            self._set_dated(options, lines)
            return
        if options["percent"] is not None:
            raise CommandError("--percent: give --organization, whose contract it is")
        chosen = [bool(lines), bool(options["base_model"]), options["remove"]]
        if sum(chosen) != 1:
            raise CommandError("give prices, or --base-model, or --remove")
        begin = _read_instant(options["since"]) if options["since"] else None
        if begin is not None and options["base_model"]:
            raise CommandError("--from: a --base-model has no date: it counts at once")
        try:
            if options["base_model"]:
                rows = set_base_model(options["model"], options["base_model"])
            else:
                rows = set_price(options["model"], lines, begin)
        except ArgumentInvalid as error:
            raise CommandError(f"--{error.param.replace('_', '-')}: {error.message}") from None
        if begin is not None and begin > timezone.now():
            for row in rows:
                text = _render(lines) if lines else "the catalogue's price"
                self.stdout.write(f"{row.model_group} ({row.id}) since {begin}: {text}")
            return
        prices = prices_in_force(rows)
        for row in rows:
            text = "no price: its calls are unpriced"
            if row.id in prices:
                text = _render(prices[row.id].lines)
            elif has_model_prices(row):
                text = "each model that it serves has its price of the catalogue"
            self.stdout.write(f"{row.model_group} ({row.id}): {text}")
        self.stdout.write("New calls have it within a second. Rows that are priced keep their cost (see `reprice`).")

    def _set_dated(self, options: Mapping[str, Any], lines: Mapping[str, str]) -> None:
        """The catalogue's price of a model, or an organization's contract."""
        provider, _, model = options["model"].partition("/")
        place = provider, "" if model == "*" else model
        begin = _read_instant(options["since"]) if options["since"] else None
        if not provider or not model or options["base_model"]:
            raise CommandError("--model: give PROVIDER/MODEL of the catalogue, or PROVIDER/*, and no --base-model")
        try:
            if options["organization"]:
                self._set_contract(options, place, lines, begin)
            else:
                if options["remove"] or options["percent"] is not None:
                    raise CommandError("--catalogue: give prices; a version of the catalogue never changes")
                row = set_catalogue_price(*place, lines, begin)
                self.stdout.write(f"{provider}/{model} since {row.effective_from}: {_render(row.lines)}")
        except PriceInvalid as error:
            raise CommandError(f"{error.param}: {error.message}") from None
        self.stdout.write("New calls have it within a second. Rows that are priced keep their cost (see `reprice`).")

    def _set_contract(
        self,
        options: Mapping[str, Any],
        place: tuple[str, str],
        lines: Mapping[str, str],
        begin: datetime | None,
    ) -> None:
        """Raises PriceInvalid."""
        if options["catalogue"]:
            raise CommandError("--catalogue: a contract is not of the catalogue")
        if sum([bool(lines), options["percent"] is not None, options["remove"]]) != 1:
            raise CommandError("give prices, or --percent, or --remove")
        organization, percent = options["organization"], options["percent"]
        if options["remove"]:
            if begin is not None:
                raise CommandError("--from: a contract ends now")
            self.stdout.write(f"{end_contract(organization, *place):,} prices of the contract have ended.")
            return
        if percent is None:
            rows = set_lines(organization, *place, lines, begin)
        else:
            rows = set_percent(organization, *place, read_percent(percent), begin)
        count = len([row for row in rows if row.model])
        is_later = begin is not None and begin > timezone.now()
        self.stdout.write(f"{count:,} prices of the contract {'begin later' if is_later else 'are in force'}.")

    def _reprice(self, options: Mapping[str, Any]) -> None:
        try:
            ids = [row.id for row in find_deployments(options["model"])]
        except DeploymentInvalid as error:
            raise CommandError(f"--model: {error.message}") from None
        since = _read_instant(options["since"]) if options["since"] else None
        scope = Scope(options["model"], options["unpriced"], since, timezone.now(), ids)
        totals = preview(scope, RowPrices())
        self.stdout.write(_describe(totals))
        if options["dry_run"] or not totals.changed:
            return
        if not options["yes"] and input("Price them again? [y/N] ").strip().lower() not in ("y", "yes"):
            raise CommandError("nothing was changed")
        job = start_job(scope, actor=getpass.getuser(), reason=options["reason"])
        self.stdout.write(f"Job {job.id}; where this command is interrupted, the worker continues it.")
        find_price = RowPrices()
        while run_step(job.id, find_price, find_deployment_ids):
            time.sleep(PAUSE_S)
        job.refresh_from_db()
        is_done = job.state == RepriceJob.State.DONE
        self.stdout.write(f"{'Done' if is_done else 'Cancelled'}: {_describe_job(job)}")


def _describe(totals: Totals) -> str:
    return (
        f"{totals.rows:,} rows, {totals.changed:,} of them with another cost: {_render_delta(totals.delta_pusd)} USD. "
        f"{totals.unpriced:,} stay without a price."
    )


def _describe_job(job: RepriceJob) -> str:
    return f"{job.rows:,} rows, {job.changed:,} of them changed: {_render_delta(job.delta_pusd)} USD"


def _render_delta(pusd: int) -> str:
    return f"{'' if pusd < 0 else '+'}{usd_text(pusd)}"


def _read_book(litellm: Path | None) -> tuple[Book, PriceBook.Source]:
    if litellm is None:
        return read_seed(), PriceBook.Source.SEED
    try:
        return read_price_map(litellm.read_bytes()), PriceBook.Source.LITELLM
    except (OSError, ValueError) as error:
        raise CommandError(f"--litellm: {error}") from None


def _read_lines(options: Mapping[str, Any]) -> dict[str, str]:
    lines = {}
    for name, line in TOKEN_OPTIONS.items():
        if options[name] is not None:
            lines[line] = per_token(_read_usd(f"--{name.replace('_', '-')}", options[name]))
    for text in options["line"]:
        key, equals, usd = text.partition("=")
        if not equals:
            raise CommandError(f"--line: {text!r} is not KEY=USD")
        lines[key.strip()] = f"{_read_usd('--line', usd.strip()):f}"
    return lines


def _read_usd(option: str, text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise CommandError(f"{option}: {text!r} is not a number") from None
    if not amount.is_finite() or not 0 <= amount <= MAX_USD_PER_MILLION:
        raise CommandError(f"{option}: must be from 0 to {MAX_USD_PER_MILLION:,} USD")
    return amount


def _read_instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"--from: {text!r} is not a date (YYYY-MM-DD) or an instant") from None
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)


def _render(lines: Mapping[str, str]) -> str:
    """In USD: per million for tokens, per unit otherwise."""
    parts = [
        f"{key} {per_million(usd)}/M" if PriceLine.read(key, usd).component in TOKENS else f"{key} {usd}"
        for key, usd in lines.items()
    ]
    return ", ".join(parts) or "no price"


def _render_difference(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    if not old:
        return f"new: {_render(new)}"
    changed = {key: usd for key, usd in new.items() if old.get(key) != usd}
    gone = [key for key in old if key not in new]
    before = {key: old[key] for key in (*changed, *gone) if key in old}
    without = f", without {', '.join(gone)}" if gone else ""
    return f"{_render(before)} → {_render(changed)}{without}"
