"""The console's pages of money: reports, prices, calls without a price, repricing, reconciliation, and alerts."""

from gateway.console.alert_channel_pages import show_channel, show_new_channel
from gateway.console.alert_list import show_alerts
from gateway.console.alert_owner import may_change_alerts, may_see_alerts
from gateway.console.contracts import show_contracts
from gateway.console.dated_price import show_new_price
from gateway.console.invoice_imports import show_imports
from gateway.console.invoice_names import show_names
from gateway.console.pages import ConsolePage
from gateway.console.price_drafts import show_drafts
from gateway.console.price_list import may_list_prices, show_prices, show_versions
from gateway.console.reconciliation import show_reconciliation
from gateway.console.report_schedule_pages import show_new_schedule, show_schedule
from gateway.console.reprice_jobs import show_job, show_jobs, show_new_job
from gateway.console.set_price import may_set_prices, show_set_price
from gateway.console.spend_report import may_report, show_report
from gateway.console.unpriced_models import may_see_prices, show_unpriced

MONEY_PAGES = (
    ConsolePage("reports/spend/", "spend_report", may_report, show_report),
    ConsolePage("prices/", "price_list", may_list_prices, show_prices),
    ConsolePage("prices/versions/", "price_versions", may_list_prices, show_versions),
    ConsolePage("prices/set/", "set_price", may_set_prices, show_set_price),
    ConsolePage("prices/new/", "new_price", may_set_prices, show_new_price),
    ConsolePage("prices/contracts/", "contracts", may_see_prices, show_contracts),
    ConsolePage("prices/drafts/", "price_drafts", may_see_prices, show_drafts),
    ConsolePage("unpriced/", "unpriced_models", may_see_prices, show_unpriced),
    ConsolePage("repricing/", "reprice_jobs", may_see_prices, show_jobs),
    ConsolePage("repricing/new/", "new_reprice_job", may_set_prices, show_new_job),
    ConsolePage("repricing/<str:job_id>/", "reprice_job", may_see_prices, show_job),
    ConsolePage("reconciliation/", "reconciliation", may_see_prices, show_reconciliation),
    ConsolePage("reconciliation/invoices/", "invoices", may_see_prices, show_imports),
    ConsolePage("reconciliation/names/", "invoice_names", may_see_prices, show_names),
    ConsolePage("alerts/", "alerts", may_see_alerts, show_alerts),
    ConsolePage("alerts/channels/new/", "new_alert_channel", may_change_alerts, show_new_channel),
    ConsolePage("alerts/channels/<str:channel_id>/", "alert_channel", may_change_alerts, show_channel),
    ConsolePage("alerts/reports/new/", "new_report_schedule", may_change_alerts, show_new_schedule),
    ConsolePage("alerts/reports/<str:schedule_id>/", "report_schedule", may_change_alerts, show_schedule),
)
