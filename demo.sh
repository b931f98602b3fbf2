#!/usr/bin/env bash
# The main job: a MetaVAE behind TorchServe embeds rotations of digits that it has never seen, and
# a linear probe says what the embeddings are worth. `make demo` runs it in its own environment.
set -euo pipefail
cd "$(dirname "$0")"

bin=$PWD/${BIN:-.venv/bin}
out=$PWD/demo-output
export METAVAE_STORE=$out/store
port=${METAVAE_PORT:-8080}
export METAVAE_PORT=$port METAVAE_URL=http://127.0.0.1:$port
export METAVAE_TOKEN_FILE=$METAVAE_STORE/.run/key_file.json
unset METAVAE_TOKEN METAVAE_HOST METAVAE_MODEL METAVAE_WORKERS METAVAE_ZOO

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
stop() { "$bin/metavae-serve" stop >/dev/null 2>&1 || true; }
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir -p "$out"
stop  # what an earlier demo that was killed left behind

family=mnist-rotation
if ! "$bin/metavae-zoo" data $family >/dev/null; then  # says in one line what is missing
    echo "The demo goes on with scikit-learn's digits."
    family=digits-rotation
fi
model=metavae-$family-contiguous

say "1. Serve $model with TorchServe"
"$bin/metavae-serve" start "$model"

say "2. One embed request: ten digits turned by 60 degrees are the context, one more is the query"
"$bin/python" - $family > "$out/request.json" <<'PYTHON'
import json, sys
from metavae_zoo.families import family

images = family(sys.argv[1]).images(60.0, "test")
tensor = lambda name, rows: {
    "name": name, "datatype": "UINT8", "shape": list(rows.shape), "data": rows.ravel().tolist()
}
print(json.dumps({"inputs": [tensor("context", images[:10]), tensor("queries", images[10:11])],
                  "outputs": [{"name": "embedding"}]}))
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

say "3. Probe the rotations that the model has not seen, against honest floors"
size=()
[ $family = digits-rotation ] || size=(--train-size 5000)
plot=$out/probe.png
echo "\$ metavae-client probe --split contiguous --family $family ${size[*]-}"
"$bin/metavae-client" probe --split contiguous --family "$family" ${size[@]+"${size[@]}"} \
    --plot "$plot"

say "4. Stop the server"
"$bin/metavae-serve" stop
echo "The plot is in ${plot#"$PWD"/}; \`metavae-serve start $model\` serves the model again."
