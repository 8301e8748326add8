"""docs/metrics.md and the rules of alerts name the metrics that there are, and no others."""

import re
from pathlib import Path

import yaml

from gateway.metrics.definitions import BY_NAME, METRICS, Kind

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROW = re.compile(r"^\| `(tollgate_\w+)` \| (\w+) \| ([^|]*) \| (.+) \|$", re.MULTILINE)
PARTS = {"_bucket", "_sum", "_count"}


def test_every_metric_has_its_row_in_the_docs() -> None:
    rows = [
        (name, kind, tuple(re.findall(r"`(\w+)`", labels)), text)
        for name, kind, labels, text in ROW.findall((DOCS / "metrics.md").read_text(encoding="utf-8"))
    ]
    assert rows == [(metric.name, metric.kind, metric.labels, metric.help) for metric in METRICS]


def test_rules_of_alerts_use_metrics_and_labels_that_exist() -> None:
    document = yaml.safe_load((DOCS / "prometheus-rules.yml").read_text(encoding="utf-8"))
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 5
    for rule in rules:
        names = re.findall(r"tollgate_\w+", rule["expr"])
        assert names, rule
        known = {"le"}
        for name in names:
            base = next((name.removesuffix(part) for part in PARTS if name.endswith(part)), name)
            assert base in BY_NAME, name
            assert (base == name) is (BY_NAME[base].kind is not Kind.HISTOGRAM), name
            known |= set(BY_NAME[base].labels)
        used = re.findall(r"by \(([^)]*)\)", rule["expr"]) + re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))
        assert {label.strip() for text in used for label in text.split(",")} <= known, rule
