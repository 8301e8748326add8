"""The formats of invoices, one file a source: pure readers of the exports of one provider's billing."""
