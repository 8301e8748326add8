// The page of the spend report: its chart, in the colours of the theme, and the names of the time zones.

const MOST_SERIES = 7;
const MOST_CHARS = 40; // of a name in the legend
const place = document.getElementById("report-chart");

function colours() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  const series = Array.from({ length: MOST_SERIES }, (_, number) => read(`--tg-series-${number + 1}`));
  return { series, text: read("--tg-chart-text"), line: read("--tg-chart-line") };
}

function usd(value) {
  const digits = value !== 0 && Math.abs(value) < 1 ? 6 : 2;
  return `$${value.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: digits })}`;
}

function paint(chart) {
  const { series, text, line } = colours();
  chart.data.datasets.forEach((set, number) => {
    set.backgroundColor = series[number % MOST_SERIES];
  });
  for (const axis of [chart.options.scales.x, chart.options.scales.y]) axis.ticks.color = text;
  chart.options.scales.y.grid.color = line;
  chart.options.plugins.legend.labels.color = text;
  chart.update("none");
}

function draw() {
  const { labels, series } = JSON.parse(document.getElementById("report-chart-data").textContent);
  const colour = colours().series; // a set without one gets Chart.js's own
  const datasets = series.map(({ name, values }, number) => ({
    label: name.length > MOST_CHARS ? `${name.slice(0, MOST_CHARS)}…` : name,
    data: values,
    backgroundColor: colour[number % MOST_SERIES],
    maxBarThickness: 36,
  }));
  const chart = new window.Chart(place, {
    type: "bar",
    data: { labels, datasets },
    options: {
      animation: false,
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      scales: {
        x: { stacked: true, grid: { display: false }, ticks: { maxRotation: 0, autoSkipPadding: 12 } },
        y: { stacked: true, beginAtZero: true, ticks: { callback: usd, maxTicksLimit: 6 }, grid: {} },
      },
      plugins: {
        legend: { display: series.length > 1, position: "bottom", labels: { boxWidth: 12, boxHeight: 12 } },
        tooltip: { callbacks: { label: (item) => `${item.dataset.label}: ${usd(item.parsed.y)}` } },
      },
    },
  });
  paint(chart);
  new MutationObserver(() => paint(chart)).observe(document.documentElement, { attributeFilter: ["class"] });
}

function offerZones() {
  const list = document.getElementById("time-zones");
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const names = new Set([own, "UTC", ...(Intl.supportedValuesOf?.("timeZone") ?? [])]);
  for (const name of names) {
    const option = document.createElement("option");
    option.value = name;
    list.append(option);
  }
}

offerZones();
if (place) draw();
