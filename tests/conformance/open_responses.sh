#!/bin/sh
# Runs the public Open Responses compliance suite (github.com/openresponses/openresponses) and prints its score.
#
#   tests/conformance/open_responses.sh SUITE_DIR [KIND …]
#       starts scripted upstreams of every kind and a gateway before them, and ends them: a line per kind
#   GATEWAY_URL=http://127.0.0.1:4000 API_KEY=sk-… MODEL=… tests/conformance/open_responses.sh SUITE_DIR [OPTION …]
#       asks the gateway that runs there; the options are the suite's own (--filter, --verbose, --json)
#
# SUITE_DIR is a copy of the suite's repository; keep it outside of this one. It needs Bun (`npm install bun`), which
# fetches the one package that the suite needs, zod, where SUITE_DIR has no node_modules. BUN and PYTHON name others.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(dirname -- "$(dirname -- "$here")")
if [ $# -eq 0 ] || [ ! -f "$1/bin/compliance-test.ts" ]; then
    echo "usage: $0 SUITE_DIR …, where SUITE_DIR holds bin/compliance-test.ts" >&2
    exit 2
fi
suite=$(CDPATH='' cd -- "$1" && pwd)
shift
BUN=${BUN:-bun}
if ! command -v "$BUN" >/dev/null; then
    echo "$0: there is no $BUN here: install it (npm install bun), or say where it is: BUN=…/node_modules/.bin/bun" >&2
    exit 2
fi

if [ -z "${GATEWAY_URL:-}" ]; then
    PYTHON=${PYTHON:-$root/.venv/bin/python}
    export BUN
    cd "$root"
    exec "$PYTHON" -m tests.conformance.upstreams "$suite" "$@"
fi
cd "$suite"
OPENRESPONSES_API_KEY=${API_KEY:?the key of the gateway} exec "$BUN" run --install=fallback bin/compliance-test.ts \
    --base-url "${GATEWAY_URL%/}/v1" --model "${MODEL:-tollgate-echo}" "$@"
