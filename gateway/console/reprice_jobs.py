"""The pages of repricing: the jobs and how far each is, and a new one with its preview."""

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from django import forms
from django.contrib import messages
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from billing.models import RepriceJob
from billing.repricing import Scope, Totals, cancel_job, count_rows, preview, start_job
from gateway.console.set_price import may_set_prices
from gateway.deployments import DeploymentInvalid, find_deployments
from gateway.protocol.amounts import usd_exact
from gateway.stores.deployment_prices import RowPrices, find_deployment_ids
from tenants.admin.console import DateTimeLocalField, timestamp

JOBS = 50  # of a page
PREVIEW_ROWS = 5_000  # that are priced for a preview; the command previews all
COUNTED_ROWS = 100_000
STATES = {
    RepriceJob.State.RUNNING: ("info", _("running")),
    RepriceJob.State.DONE: ("success", _("done")),
    RepriceJob.State.CANCELLED: ("neutral", _("cancelled")),
}


class RepriceForm(forms.Form):
    model = forms.CharField(
        label=_("Model group, or id of a deployment"),
        max_length=255,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
    )
    rows = forms.ChoiceField(
        label=_("Calls"),
        choices=[("unpriced", _("without a price")), ("since", _("all since an instant"))],
        initial="unpriced",
        widget=UnfoldAdminSelectWidget(),
    )
    since = DateTimeLocalField(label=_("Since"))
    reason = forms.CharField(
        label=_("Reason"),
        required=False,
        max_length=255,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
    )

    def clean(self) -> dict[str, object]:
        cleaned: dict[str, object] = super().clean() or {}
        if cleaned.get("rows") == "since" and not cleaned.get("since") and "since" not in self.errors:
            self.add_error("since", _("Say since when."))
        return cleaned


@dataclass(frozen=True, slots=True)
class JobText:
    """A job, for its page and the list. `percent` None: the rest is not counted."""

    job: RepriceJob
    link: str
    rows: str
    changed: str
    change: str
    kind: str
    state: object
    what: object
    percent: int | None
    left: str
    created: SafeString | str
    ended: SafeString | str

    @property
    def is_running(self) -> bool:
        return self.job.state == RepriceJob.State.RUNNING


def show_jobs(site: AdminSite, request: HttpRequest) -> HttpResponse:
    """The newest jobs, or with `before` those older than one."""
    rows = RepriceJob.objects.order_by("-id")
    if before := request.GET.get("before", "").replace("\0", "")[:36]:
        rows = rows.filter(id__lt=before)
    jobs = list(rows[: JOBS + 1])
    older = f"?{urlencode({'before': jobs[JOBS - 1].id})}" if len(jobs) > JOBS else ""
    context = {
        **site.each_context(request),
        "title": _("Repricing"),
        "jobs": [describe_job(job) for job in jobs[:JOBS]],
        "older": older,
        "may_set": may_set_prices(request),
    }
    return TemplateResponse(request, "console/reprice_jobs.html", context)


def show_new_job(site: AdminSite, request: HttpRequest) -> HttpResponse:
    """GET previews the job that its parameters describe; POST starts it."""
    given = request.POST if request.method == "POST" else request.GET
    form = RepriceForm({"rows": "unpriced", **given.dict()} if given.get("model") else None)
    totals: Totals | None = None
    count = 0
    if form.is_bound and form.is_valid():
        try:
            scope = _make_scope(form.cleaned_data)
        except DeploymentInvalid as refusal:
            form.add_error("model", f"{refusal.message[:1].upper()}{refusal.message[1:]}.")
        else:
            if request.method == "POST":
                job = start_job(scope, actor=request.user.get_username(), reason=form.cleaned_data["reason"])
                messages.success(request, _("The job has begun. The worker continues it in the background."))
                return HttpResponseRedirect(reverse("admin:reprice_job", args=[job.id]))
            totals = preview(scope, RowPrices(), max_rows=PREVIEW_ROWS)
            count = totals.rows if totals.rows < PREVIEW_ROWS else count_rows(scope, None, COUNTED_ROWS)
    context = {
        **site.each_context(request),
        "title": _("Price calls again"),
        "form": form,
        "totals": totals,
        "count": f"{count:,}{'+' if count >= COUNTED_ROWS else ''}",
        "is_partial": totals is not None and totals.rows < count,
        "looked_at": f"{totals.rows:,}" if totals is not None else "",
        "changed": f"{totals.changed:,}" if totals is not None else "",
        "unpriced": f"{totals.unpriced:,}" if totals is not None and totals.unpriced else "",
        "change": _render_change(totals.delta_pusd) if totals is not None else "",
    }
    return TemplateResponse(request, "console/new_reprice_job.html", context)


def show_job(site: AdminSite, request: HttpRequest, job_id: str) -> HttpResponse:
    """The page of a job; with `part` only its progress, which the page asks for again and again."""
    job = RepriceJob.objects.filter(id=job_id.replace("\0", "")).first()
    if job is None:
        raise Http404
    if request.method == "POST" and not may_set_prices(request):
        raise PermissionDenied
    if request.method == "POST":
        if cancel_job(job.id):
            messages.success(request, _("The job is cancelled. What it has done stays."))
        return HttpResponseRedirect(reverse("admin:reprice_job", args=[job.id]))
    context = {"one": describe_job(job, is_counted=True), "may_set": may_set_prices(request)}
    if request.GET.get("part") == "progress":
        return TemplateResponse(request, "console/reprice_progress.html", context)
    context |= {**site.each_context(request), "title": _("Repricing")}
    return TemplateResponse(request, "console/reprice_job.html", context)


def _make_scope(cleaned: dict[str, object]) -> Scope:
    """Raises DeploymentInvalid where no deployment has the name."""
    model, since = str(cleaned["model"]), cleaned["since"]
    is_unpriced = cleaned["rows"] == "unpriced"
    ids = [row.id for row in find_deployments(model)]
    begin = since if isinstance(since, datetime) and not is_unpriced else None
    return Scope(model, is_unpriced, begin, timezone.now(), ids)


def describe_job(job: RepriceJob, *, is_counted: bool = False) -> JobText:
    """`is_counted`: with the rows that are left, which costs a query."""
    kind, state = STATES[RepriceJob.State(job.state)]
    percent, left = (100, "") if job.state == RepriceJob.State.DONE else (None, "")
    if is_counted and job.state == RepriceJob.State.RUNNING:
        scope = Scope(job.model, job.is_unpriced, job.since, job.until, find_deployment_ids(job.model))
        count = count_rows(scope, job.cursor, COUNTED_ROWS)
        left = f"{count:,}{'+' if count >= COUNTED_ROWS else ''}"
        percent = 100 * job.rows // (job.rows + count) if job.rows + count else 100
    return JobText(
        job,
        reverse("admin:reprice_job", args=[job.id]),
        f"{job.rows:,}",
        f"{job.changed:,}",
        _render_change(job.delta_pusd),
        kind,
        state,
        _("calls without a price") if job.is_unpriced else _("all calls"),
        percent,
        left,
        timestamp(job.created_at),
        timestamp(job.ended_at),
    )


def _render_change(pusd: int) -> str:
    return f"{'' if pusd < 0 else '+'}{usd_exact(pusd)}"
