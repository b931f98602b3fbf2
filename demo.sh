#!/usr/bin/env bash
# The main job: a model behind TorchServe embeds images of sites that it has never seen, given ten
# unlabelled images of each; a classifier fitted at other sites is tested there, without and with
# them, and a picture shows it. `make demo` runs this in its own environment.
set -euo pipefail
cd "$(dirname "$0")"

bin=$PWD/${BIN:-.venv/bin}
out=$PWD/demo-output
export METAVAE_STORE=$out/store
case ${METAVAE_PORT:-} in
    '' | *[!0-9]*) port=8080 ;;  # Kubernetes sets tcp://... for a Service of that name
    *) port=$METAVAE_PORT ;;
esac
export METAVAE_PORT=$port METAVAE_URL=http://127.0.0.1:$port
export METAVAE_TOKEN_FILE=$METAVAE_STORE/.run/key_file.json
unset METAVAE_TOKEN METAVAE_HOST METAVAE_MODEL METAVAE_WORKERS METAVAE_ZOO

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() {  # a command of the client, shown as it would be typed
    echo "\$ metavae-client ${*//"$PWD"\//}"
    "$bin/metavae-client" "$@"
}
stop() { "$bin/metavae-serve" stop >/dev/null 2>&1 || true; }
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir -p "$out"
stop  # what an earlier demo that was killed left behind

data=mnist
if ! "$bin/metavae-zoo" data mnist-scanner >/dev/null; then  # says in one line what is missing
    echo "The demo goes on with scikit-learn's digits."
    data=digits
fi
model=canonical-wavelet-$data
family=$data-scanner site=28  # of the 20 that no classifier is fitted at
if [ "$data" = digits ]; then
    family=digits-rotation site=40  # 8x8 digits are too coarse for all that a scanner does
fi

say "1. Serve $model with TorchServe"
"$bin/metavae-serve" start "$model"

say "2. One embed request: ten images of site $site are the context, one more is the query"
"$bin/python" - "$family" "$site" "$out" <<'PYTHON'
import json, sys
from pathlib import Path
import numpy as np
from metavae_zoo.families import family

name, site, out = sys.argv[1:]
images = family(name).images(float(site), "test")
np.save(Path(out, "ten-images.npy"), images[:10])
tensor = lambda name, rows: {
    "name": name, "datatype": "UINT8", "shape": list(rows.shape), "data": rows.ravel().tolist()
}
request = {"inputs": [tensor("context", images[:10]), tensor("queries", images[10:11])],
           "outputs": [{"name": "embedding"}]}
Path(out, "request.json").write_text(json.dumps(request))
PYTHON
(umask 077 && "$bin/python" - "$METAVAE_TOKEN_FILE" > "$out/authorization" <<'PYTHON'
import json, sys

print("Authorization: Bearer", json.load(open(sys.argv[1]))["inference"]["key"])
PYTHON
)
echo "\$ curl -H @authorization -H 'Content-Type: application/json' -d @request.json \\"
echo "    $METAVAE_URL/v2/models/$model/infer"
if command -v curl >/dev/null; then
    curl --fail-with-body --silent --show-error --noproxy '*' -H @"$out/authorization" \
         -H 'Content-Type: application/json' -d @"$out/request.json" \
         "$METAVAE_URL/v2/models/$model/infer" | cut -c 1-400
    echo
else
    echo "(curl is not on this machine)"
fi

say "3. What the ten images tell of their site"
run summarize "$out/ten-images.npy" --site --model "$model"

say "4. A classifier at sites that it has never seen, without and with ten images of each"
picture=$out/sites.png
run sites --family "$family" --model "$model" --train-size 400 --test-size 490 \
    --picture "$picture"

say "5. The paper's linear probe of the same model, at rotations, against honest baselines"
run probe --split contiguous --family "$data-rotation" --model "$model" --train-size 1000 \
    --test-size 490 --contexts 3 --plot "$out/probe.png"

say "6. Stop the server"
"$bin/metavae-serve" stop
echo "Look at ${picture#"$PWD"/}. \`metavae-serve start $model\` serves the model again."
